"""`mep check`, `map`, `version` and `diagnose`: questions that change nothing."""

from __future__ import annotations

import gzip
import json
import os
import platform
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from mep import __version__
from mep.base.codes import Code
from mep.base.errors import InputError, MepError
from mep.base.exits import Exit
from mep.base.ids import is_uuid
from mep.base.secrets import without_password
from mep.cli.context import Cli, endpoint_argument, pass_cli
from mep.cli.files import load_endpoint, parse_json, parse_mapping, read_given, read_own
from mep.cli.output import json_option, print_json, print_table
from mep.cli.state import is_running, read_endpoint_id


@click.command()
@endpoint_argument
@json_option
@pass_cli
def check(cli: Cli, name: str, *, as_json: bool) -> int:
    """Read and cross-check every file of an endpoint; start nothing.

    Exits with 0 if it would start, 78 if not. Warnings and notes do not keep it from starting.
    """
    from mep.cli.checks import check_endpoint

    report = check_endpoint(cli, name, relay_from_environment=os.environ.get("MEP_RELAY_URL"))
    if as_json:
        print_json({"name": name, "ok": not report.failed, "findings": [asdict(f) for f in report.findings]})
        return Exit.CONFIG if report.failed else Exit.OK
    for finding in report.findings:
        code = f"{finding.code}: " if finding.code else ""
        click.echo(f"{finding.level:8}{finding.subject}: {code}{finding.text}")
    errors = sum(1 for f in report.findings if f.level == "error")
    click.echo(f"{name}: {errors} error(s). It would not start." if errors else f"{name}: no errors.")
    return Exit.CONFIG if report.failed else Exit.OK


@click.command("map")
@endpoint_argument
@click.option(
    "--identity", "usernames", multiple=True, metavar="IDENTITY", help="A user name, or an id. May repeat."
)
@click.option("--identity-set", metavar="JSON|@FILE", help="Identity documents, as the relay sends them.")
@json_option
@pass_cli
def map_identity(
    cli: Cli, name: str, *, usernames: tuple[str, ...], identity_set: str | None, as_json: bool
) -> int:
    """Show which local account an identity becomes, and by which rule.

    External mapping programs are run. Exits with 0 if the identity is mapped to an account that is admitted.
    """
    identities = _identities(usernames, identity_set)
    found = load_endpoint(cli, name)
    text = read_own(found.paths.mapping)
    mapping = parse_mapping(
        text,
        source=str(found.paths.mapping),
        endpoint_id=read_endpoint_id(found.paths),
        timeout_s=found.config.mapping_timeout_s,
    )
    from mep.identity.mapping import not_mapped

    match = mapping.lookup(identities)
    if match is None:
        raise not_mapped(identities)
    account, refusal = _account(found.config, match.username)
    if as_json:
        print_json({**asdict(match), "account": account, "refused": refusal and refusal.for_admin()})
    else:
        click.echo(f"{match.identity} -> {match.username}")
        click.echo(f"rule: {match.rule}")
        if account:
            click.echo(f"account: uid {account['uid']}, gid {account['gid']}, home {account['home']}")
    if refusal is not None:
        raise refusal
    return Exit.OK


def _account(config: Any, username: str) -> tuple[dict[str, Any] | None, MepError | None]:
    from mep.admit.rules import check_account, check_name
    from mep.host.accounts import find_account, find_ids

    account = None
    try:
        account = find_account(check_name(username))
        ids = find_ids(account, config.denied_users, config.denied_groups)
        check_account(account, config, gate_uid=_uid_or_none(config.gate_user), ids=ids)
    except MepError as error:
        return (asdict(account) if account else None), error
    return asdict(account), None


def _uid_or_none(user: str) -> int | None:
    from mep.host.accounts import find_account

    try:
        return find_account(user).uid
    except MepError:
        return None


def _identities(usernames: tuple[str, ...], identity_set: str | None) -> list[dict[str, Any]]:
    if bool(usernames) == (identity_set is not None):
        raise InputError(Code.USAGE, "Give either --identity or --identity-set.", step="")
    if identity_set is None:
        return [_made_up(name, number) for number, name in enumerate(usernames)]
    text, source = identity_set, "--identity-set"
    if identity_set.startswith("@"):
        text, source = read_given(Path(identity_set[1:])), identity_set[1:]
    value = parse_json(text, source=source)
    if isinstance(value, dict):
        # `globus get-identities -F json` and userinfo wrap the list.
        value = value.get("identities") or value.get("identity_set") or [value]
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(Code.USAGE, f"{source}: wanted a list of identity documents.", step="")
    return value


def _made_up(name: str, number: int) -> dict[str, Any]:
    """Return the least document that can be mapped. Only user name and id are known of it."""
    if is_uuid(name):
        return {"id": name, "sub": name, "username": f"{name}@clients.auth.globus.org", "status": "used"}
    made_up = f"00000000-0000-4000-8000-{number:012d}"
    return {"id": made_up, "sub": made_up, "username": name, "email": name, "status": "used"}


@click.command()
@json_option
@click.pass_context
def version(ctx: click.Context, *, as_json: bool) -> None:
    """Show the version."""
    facts = {"mep": __version__, "python": platform.python_version()}
    if as_json:
        print_json(facts)
    else:
        click.echo(f"mep {__version__} (Python {platform.python_version()})")


@click.command()
@json_option
@click.option("-z", "--compress", is_flag=True, help="Write a compressed file in the current folder instead.")
@pass_cli
def diagnose(cli: Cli, *, as_json: bool, compress: bool) -> None:
    """Report on this host and its endpoints, to be sent with the report of a defect. Holds no secrets."""
    facts, endpoints = _facts(cli), [_endpoint_facts(cli, name) for name in cli.names()]
    if compress:
        path = Path(f"mep-diagnose-{platform.node()}.json.gz")
        with gzip.open(path, "wt", encoding="utf-8") as file:
            json.dump({**facts, "endpoints": endpoints}, file, indent=2)
        click.echo(path)
    elif as_json:
        print_json({**facts, "endpoints": endpoints})
    else:
        packages = facts.pop("packages")
        print_table(["FACT", "VALUE"], [*facts.items(), *((f"package {k}", v) for k, v in packages.items())])
        click.echo()
        rows = [[e["name"], e["endpoint_id"], e["running"], "; ".join(e["errors"])] for e in endpoints]
        empty = f"No endpoint is configured in {cli.config_dir}."
        print_table(["ENDPOINT", "ID", "RUNNING", "ERRORS"], rows, empty=empty)


def _facts(cli: Cli) -> dict[str, Any]:
    from mep.cli.checks import CREDENTIALS, limit_mechanism

    return {
        "mep": __version__,
        "python": f"{platform.python_version()} {sys.executable}",
        "system": platform.platform(),
        "user": f"uid {os.geteuid()}",
        "config_dir": str(cli.config_dir),
        "MEP_RELAY_URL": without_password(os.environ.get("MEP_RELAY_URL", "")),
        "credentials": ", ".join(name for name in CREDENTIALS if os.environ.get(name)),
        "limits": "; ".join(limit_mechanism()),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _endpoint_facts(cli: Cli, name: str) -> dict[str, Any]:
    from mep.cli.checks import check_endpoint

    try:
        report = check_endpoint(cli, name, relay_from_environment=os.environ.get("MEP_RELAY_URL"))
        faults = [f"{f.subject}: {f.text}" for f in report.findings if f.level == "error"]
        paths = cli.locate(name)
    except MepError as error:  # a folder whose name cannot be an endpoint's
        return {"name": name, "endpoint_id": "", "running": None, "errors": [error.admin_text]}
    return {"name": name, "endpoint_id": read_endpoint_id(paths), "running": is_running(paths), "errors": faults}


_PACKAGES = (
    "pika",
    "pydantic",
    "jinja2",
    "jsonschema",
    "parsl",
    "dill",
    "globus-identity-mapping",
    "msgspec",
    "pyyaml",
)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
