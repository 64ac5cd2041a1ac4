"""`mep render`: the configuration a user would get."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import IO, Any

import click

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.cli.context import Cli, pass_cli
from mep.cli.files import (
    load_endpoint,
    parse_json,
    parse_schema,
    read_given,
    read_includes,
    read_own,
    template_file,
)
from mep.cli.output import json_option, print_json
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.parsing import ignored_settings
from mep.config.user_endpoint import UserEndpointConfig, load_user_endpoint_config
from mep.template import ReservedVariables, validate_options
from mep.template import render as render_template

_ROLE = "user_config_template"


@click.command()
@click.argument("name", required=False)
@click.option("--endpoint", "-e", help="Stock spelling of NAME.")
@click.option("--options", metavar="JSON|@FILE", help="user_endpoint_config, as JSON, or @FILE.  [default: {}]")
@click.option("--user-options", "-o", type=click.File(), help="Stock spelling of --options @FILE; - is stdin.")
@click.option("--template", "-t", type=click.File(), help="Render this template instead of the endpoint's.")
@click.option(
    "--user-schema", "-s", type=click.File(), help="Check against this schema instead of the endpoint's."
)
@click.option("--user", metavar="ACCOUNT", help="Render as for this local account.  [default: yours]")
@click.option("--parent-config", type=click.File(), help="Another config.yaml for the variable parent_config.")
@click.option(
    "--user-runtime", type=click.File(), help="JSON for the variable user_runtime.  [default: this Python]"
)
@click.option("--mapped-identity", type=click.File(), help="JSON for the variable mapped_identity.")
@json_option
@pass_cli
def render(cli: Cli, name: str | None, endpoint: str | None, *, as_json: bool, **given: Any) -> None:
    """Print the user endpoint's configuration that an endpoint's template gives, as it checks it.

    The options are checked against the schema, the result is read as a user endpoint would read it.
    """
    _at_most_one_stdin([file for file in given.values() if getattr(file, "name", "") == "<stdin>"])
    chosen = name or endpoint
    if chosen is None and given["template"] is None:
        raise InputError(Code.USAGE, "Name an endpoint, or give a template with --template.", step="")
    config, template, schema, includes = _inputs(cli, chosen, given)
    options = _options(given)
    validate_options(options, schema)
    text = render_template(
        template, options=options, reserved=_reserved(config, given), source=_ROLE, includes=includes
    )
    settled = load_user_endpoint_config(text, source=f"{_ROLE}, rendered")
    _print(text, settled, as_json=as_json)


def _print(text: str, settled: UserEndpointConfig, *, as_json: bool) -> None:
    if as_json:
        print_json(settled.model_dump(mode="json", exclude_unset=True))
        return
    click.echo(text, nl=not text.endswith("\n"))
    for key, reason in ignored_settings(settled):
        click.echo(f"mep: note: {key} has no effect: {reason}.", err=True)


def _inputs(cli: Cli, name: str | None, given: dict[str, Any]) -> tuple[EndpointConfig, str, Any, dict[str, str]]:
    config, template, schema = EndpointConfig(), "", None
    includes: dict[str, str] = {}
    if name is not None:
        found = load_endpoint(cli, name)
        config = found.config
        if given["template"] is None:
            path = template_file(found.paths)
            template = read_own(path)
            includes = read_includes(path)
        if given["user_schema"] is None and found.paths.schema.exists():
            source = str(found.paths.schema)
            schema = parse_schema(read_own(found.paths.schema), source=source)
    if given["parent_config"] is not None:
        config = load_endpoint_config(given["parent_config"].read(), source=given["parent_config"].name)
    if given["template"] is not None:
        template = given["template"].read()
    if given["user_schema"] is not None:
        schema = parse_schema(given["user_schema"].read(), source=given["user_schema"].name)
    return config, template, schema, includes


def _options(given: dict[str, Any]) -> Any:
    text = given["options"]
    if text is not None and given["user_options"] is not None:
        raise InputError(Code.USAGE, "Give --options or --user-options, not both.", step="")
    if given["user_options"] is not None:
        return parse_json(
            given["user_options"].read(), source=given["user_options"].name, code=Code.OPTIONS_INVALID
        )
    if text is None:
        return {}
    if text.startswith("@"):
        return parse_json(read_given(Path(text[1:])), source=text[1:], code=Code.OPTIONS_INVALID)
    return parse_json(text, source="--options", code=Code.OPTIONS_INVALID)


def _reserved(config: EndpointConfig, given: dict[str, Any]) -> ReservedVariables:
    runtime, identity = this_runtime(), None
    if given["user_runtime"] is not None:
        runtime = _object(given["user_runtime"])
    if given["mapped_identity"] is not None:
        identity = _object(given["mapped_identity"])
    return ReservedVariables(
        parent_config=config.model_dump(mode="json"),
        user_runtime=runtime,
        mapped_identity=_identity_of(given["user"]) if identity is None else identity,
        env=dict(os.environ),
    )


def _object(file: IO[str]) -> dict[str, Any]:
    value = parse_json(file.read(), source=file.name)
    if not isinstance(value, dict):
        raise InputError(Code.USAGE, f"{file.name}: wanted a JSON object.", step="")
    return value


def _identity_of(user: str | None) -> dict[str, Any]:
    """Return `mapped_identity` for an account, as if some identity had been mapped to it."""
    from mep.host.accounts import find_account, own_account

    account = own_account() if user is None else find_account(user)
    local = {
        "uname": account.name,
        "uid": account.uid,
        "gid": account.gid,
        "gecos": account.gecos,
        "shell": account.shell,
        "dir": account.home,
        "groups": list(account.gids),
    }
    return {"local": local, "globus": {"id": "00000000-0000-0000-0000-000000000000"}}


def this_runtime() -> dict[str, Any]:
    """Return `user_runtime` as a submission from this Python would carry it."""
    version = sys.version_info
    return {
        "globus_compute_sdk_version": "4.19.0",
        "globus_sdk_version": "4.9.1",
        "python_version": platform.python_version(),
        "python": {
            "version": platform.python_version(),
            "version_tuple": list(version[:3]),
            "version_info": [*version[:3], version.releaselevel, version.serial],
            "implementation": platform.python_implementation(),
        },
        "platform": {"machine": platform.machine(), "node": platform.node(), "platform": platform.platform()},
    }


def _at_most_one_stdin(files: list[Any]) -> None:
    if len(files) > 1:
        raise InputError(Code.USAGE, "Only one of the files can be stdin.", step="")


def sample_options(schema: Any) -> list[dict[str, Any]]:
    """Return options that a schema allows: none at all, and each choice of each enumeration; for `mep check`."""
    found: list[dict[str, Any]] = [{}]
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    for key, rule in properties.items() if isinstance(properties, dict) else ():
        if isinstance(rule, dict):
            choices = (
                rule.get("enum")
                or [rule[k] for k in ("default", "const") if k in rule]
                or rule.get("examples", [])
            )
            found += [{key: json.loads(json.dumps(choice))} for choice in choices[:20]]
    return found
