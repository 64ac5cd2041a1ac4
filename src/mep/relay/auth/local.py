"""Accounts as the administrator makes them, with nothing but the database: the relay may run or not."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.relay.auth.bearer import ALL_SCOPES
from mep.relay.store import accounts
from mep.relay.store.accounts import Identity
from mep.relay.store.engine import create_tables, open_writer

T = TypeVar("T")


def new_secret() -> str:
    """Return a new random token or secret: 256 bits."""
    return secrets.token_urlsafe(32)


def make_token(url: str, username: str, *, lifetime_s: float) -> Secret:
    """Return a new access token of that account, which is made if it does not exist."""
    text = new_secret()

    def job(connection: Connection) -> None:
        identity = accounts.ensure_identity(connection, _checked(username))
        if identity.disabled:
            raise InputError(Code.USAGE, f"{username} is disabled.", step="Enable it: `mep relay user enable`.")
        accounts.add_token(
            connection, text, identity_id=identity.id, kind="access", scope=ALL_SCOPES, lifetime_s=lifetime_s
        )

    _do(url, job)
    return Secret(text)


def make_client(url: str, name: str) -> tuple[str, Secret]:
    """Return id and secret of a new client."""
    secret = new_secret()
    return _do(url, lambda c: accounts.add_client(c, _checked(name), secret)), Secret(secret)


def list_accounts(url: str) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(identity) for identity in _do(url, accounts.list_identities)]


def set_account_disabled(url: str, username: str, *, disabled: bool) -> None:
    _do(url, lambda c: accounts.set_disabled(c, _existing(c, username).id, disabled=disabled))


def revoke_tokens(url: str, username: str) -> int:
    return _do(url, lambda c: accounts.drop_tokens(c, _existing(c, username).id))


def _existing(connection: Connection, username: str) -> Identity:
    found = accounts.find_identities(connection, ids=[username], usernames=[username])
    if not found:
        raise InputError(
            Code.NOT_FOUND, f"There is no account {username!r}.", step="`mep relay user list` shows them."
        )
    return found[0]


def _checked(name: str) -> str:
    if not name or len(name) > 256 or not name.isprintable() or name != name.strip():
        raise InputError(Code.USAGE, f"{name!r} is no usable name.", step="Use something like alice@example.org.")
    return name


def _do(url: str, job: Callable[[Connection], T]) -> T:
    engine = open_writer(url)
    try:
        create_tables(engine)
        with engine.begin() as connection:
            return job(connection)
    finally:
        engine.dispose()
