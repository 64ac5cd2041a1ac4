"""`mep relay`: serve a relay; make its tokens, clients and users. All but `serve` need only the data directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.cli.output import json_option, print_json, print_table

_DAY_S = 86_400.0


def _data_dir_option(function: Any) -> Any:
    return click.option(
        "--data-dir",
        required=True,
        envvar="MEP_RELAY_DATA_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the relay keeps everything it remembers.",
    )(function)


def _database_option(function: Any) -> Any:
    return click.option(
        "--database-url",
        default="",
        envvar="MEP_RELAY_DATABASE_URL",
        help="SQLAlchemy URL. Default: SQLite in the data directory.",
    )(function)


def _stored(function: Any) -> Any:
    """Where the relay's data is: what every command that reads or changes it is told."""
    return _data_dir_option(_database_option(function))


def _of_user(function: Any) -> Any:
    """A command of `mep relay user` about one account."""
    return user.command()(_stored(click.argument("identity")(function)))


@click.group()
def relay() -> None:
    """Serve a relay; make its tokens, clients and users."""


@relay.command()
@_stored
@click.option("--listen", default="127.0.0.1:5000", show_default=True, help="HOST:PORT; port 0 takes a free one.")
@click.option(
    "--broker-url",
    default="",
    envvar="MEP_RELAY_BROKER_URL",
    help="An existing RabbitMQ: amqp(s)://USER:PASSWORD@HOST/VHOST.",
)
@click.option(
    "--broker-management-url",
    default="",
    envvar="MEP_RELAY_BROKER_MANAGEMENT_URL",
    help="Its management API, where not on the usual port.",
)
@click.option(
    "--broker-client-host", default="", help="HOST[:PORT] of the broker as clients see it, where it differs."
)
@click.option("--public-url", default="", help="This relay's URL as clients see it, where it differs.")
@click.option(
    "--task-ttl",
    "task_ttl_s",
    type=click.FloatRange(min=0.1),
    help="Seconds a task waits for an endpoint that is away. [14 days]",
)
@click.option(
    "--start-timeout",
    "start_timeout_s",
    type=click.FloatRange(min=0.1),
    help="Seconds a user endpoint has for its first sign of life. [60]",
)
@click.option(
    "--rate-limit",
    "requests_per_s",
    type=click.FloatRange(min=0.0),
    help="Requests per second that one person may make on average; 0 for no limit. [500]",
)
@click.option(
    "--lock",
    "lock_s",
    type=click.FloatRange(min=0.0),
    help="Seconds an endpoint stays locked after a remote stop. [60]",
)
@click.option("--debug", is_flag=True, help="Log more.")
def serve(data_dir: Path, listen: str, *, debug: bool, **options: Any) -> None:
    """Run the relay in the foreground; it is ready when GET /healthz answers 200."""
    from mep.base.secrets import Secret
    from mep.relay.settings import Settings

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(Code.USAGE, f"--listen {listen!r}: wanted HOST:PORT.", step="")
    for name in ("broker_url", "broker_management_url", "database_url"):
        options[name] = Secret(options[name])
    chosen = {name: value for name, value in options.items() if value is not None}
    os.umask(0o077)
    from mep.relay.serve import run

    run(Settings(data_dir=data_dir.absolute(), host=host.strip("[]"), port=int(port), **chosen), debug=debug)


@relay.command()
@_stored
@click.argument("identity")
@click.option(
    "--days", default=365.0, show_default=True, type=click.FloatRange(min=0.0), help="How long it is valid."
)
def token(data_dir: Path, database_url: str, identity: str, days: float) -> None:
    """Print a new bearer token for IDENTITY (such as alice@example.org), making the account if need be."""
    from mep.relay.auth.local import make_token

    click.echo(make_token(_database(data_dir, database_url), identity, lifetime_s=days * _DAY_S).reveal())


@relay.command()
@_stored
@click.argument("name")
@json_option
def client(data_dir: Path, database_url: str, name: str, *, as_json: bool) -> None:
    """Print the id and secret of a new client: the identity of an endpoint or a program."""
    from mep.relay.auth.local import make_client

    client_id, secret = make_client(_database(data_dir, database_url), name)
    if as_json:
        print_json({"client_id": client_id, "client_secret": secret.reveal()})
    else:
        click.echo(f"client_id:     {client_id}\nclient_secret: {secret.reveal()}")


@relay.group()
def user() -> None:
    """List, disable and enable accounts; revoke their tokens."""


@user.command("list")
@_stored
@json_option
def list_users(data_dir: Path, database_url: str, *, as_json: bool) -> None:
    """Show the accounts."""
    from mep.relay.auth.local import list_accounts

    found = list_accounts(_database(data_dir, database_url))
    if as_json:
        print_json(found)
    else:
        rows = [[a["username"], a["name"], a["id"], "disabled" if a["disabled"] else "active"] for a in found]
        print_table(["identity", "name", "id", "state"], rows, empty="No accounts yet.")


@_of_user
def disable(data_dir: Path, database_url: str, identity: str) -> None:
    """Refuse IDENTITY from now on (a running relay follows within seconds)."""
    from mep.relay.auth.local import set_account_disabled

    set_account_disabled(_database(data_dir, database_url), identity, disabled=True)


@_of_user
def enable(data_dir: Path, database_url: str, identity: str) -> None:
    """Admit IDENTITY again."""
    from mep.relay.auth.local import set_account_disabled

    set_account_disabled(_database(data_dir, database_url), identity, disabled=False)


@_of_user
def revoke(data_dir: Path, database_url: str, identity: str) -> None:
    """Make every token of IDENTITY invalid (a running relay follows within seconds)."""
    from mep.relay.auth.local import revoke_tokens

    count = revoke_tokens(_database(data_dir, database_url), identity)
    click.echo(f"{count} tokens revoked")


@relay.command("rotate-key")
@_data_dir_option
def rotate_key(data_dir: Path) -> None:
    """Make a new key for start commands. Restart the relay then; endpoints learn it when they register next."""
    from mep.relay.auth.keys import add_start_key

    click.echo(f"made {add_start_key(data_dir.absolute())}; it signs after the relay's next start")


def _database(data_dir: Path, database_url: str) -> str:
    from mep.relay.store.engine import default_url

    os.umask(0o077)
    return database_url or default_url(data_dir.absolute())
