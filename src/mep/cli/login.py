"""`mep login`, `mep logout`, `mep whoami`: who this person is at which relay."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import click

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.cli.output import json_option, print_json
from mep.sdk.client import Client
from mep.sdk.credentials import checked_url, find_relay, somebody_there
from mep.sdk.login_file import Login, login_path, read_login, remove_login, write_login

_VARIABLES = ("MEP_TOKEN", "MEP_CLIENT_SECRET", "GLOBUS_COMPUTE_CLIENT_SECRET")
_RETRY_S = 3.0  # somebody is watching: say soon that the relay is away


@click.command()
@click.option("--relay", "relay_url", help="The relay's address. Default: MEP_RELAY_URL, else the last one.")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
def login(relay_url: str | None, *, token_stdin: bool) -> None:
    """Log in to a relay with a token, which its operator gave you (`mep relay token`)."""
    url = _relay(relay_url, ask=not token_stdin and somebody_there())
    _warn_plain(url)
    token = _token(url, from_stdin=token_stdin)
    me = Client(relay_url=url, token=token.reveal(), retry_s=_RETRY_S).whoami()
    name = str(me.get("preferred_username") or me.get("sub") or "")
    path = write_login(Login(url, token, name))
    click.echo(f"Logged in to {url} as {name}. Stored in {path}.")
    _warn_override()


@click.command()
def logout() -> None:
    """Forget the stored login. The token itself stays valid until its relay's operator revokes it."""
    click.echo(f"Removed {login_path()}." if remove_login() else "Nobody was logged in.")
    _warn_override()


@click.command()
@json_option
def whoami(*, as_json: bool) -> None:
    """Show which relay is used, and who it takes you for."""
    url = find_relay()
    me = Client(relay_url=url, retry_s=_RETRY_S).whoami()
    if as_json:
        print_json({"relay": url, **me})
        return
    click.echo(f"{me.get('preferred_username') or me.get('sub')} at {url}")
    for identity in me.get("identity_set") or []:
        if isinstance(identity, dict) and identity.get("sub") != me.get("sub"):
            click.echo(f"  also {identity.get('username')} ({identity.get('sub')})")


def _relay(given: str | None, *, ask: bool) -> str:
    if given:
        return checked_url(given)
    known = os.environ.get("MEP_RELAY_URL", "")
    if not known:
        stored = read_login()
        known = stored.relay if stored is not None else ""
    if ask:
        known = click.prompt("Relay", default=known or None)
    if not known:
        raise InputError(Code.USAGE, "It is not known which relay to log in to.", step="Give --relay URL.")
    return checked_url(known)


def _token(url: str, *, from_stdin: bool) -> Secret:
    if from_stdin:
        text = _line_of_stdin().strip()
    elif somebody_there():
        text = click.prompt(f"Token for {url}", hide_input=True).strip()
    else:
        raise InputError(
            Code.USAGE,
            "Standard input is no terminal, so nobody can be asked for a token.",
            step="Use --token-stdin, or set MEP_TOKEN.",
        )
    if from_stdin and not text:
        raise InputError(
            Code.USAGE, "There is no token on standard input.", step="For example: mep login --token-stdin < FILE."
        )
    if not text or any(c.isspace() or not c.isprintable() for c in text):
        raise InputError(Code.USAGE, "That is no token: a token is one word.", step="")
    return Secret(text)


def _line_of_stdin() -> str:
    try:
        return sys.stdin.readline() if sys.stdin is not None else ""
    except (OSError, ValueError):  # closed, or not text
        return ""


def _warn_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        click.echo(f"Warning: {url} is not encrypted; others on the network can read the token.", err=True)


def _warn_override() -> None:
    for name in _VARIABLES:
        if os.environ.get(name):
            click.echo(f"Warning: {name} is set, and used instead of a stored login.", err=True)
