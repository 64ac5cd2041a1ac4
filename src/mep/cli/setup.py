"""`mep configure`, `list` and `delete`: an endpoint's folder, from its first file to its last."""

from __future__ import annotations

import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from mep.base.codes import Code
from mep.base.errors import HostError, InputError, MepError, RefusedError, ServiceError
from mep.base.ids import is_uuid
from mep.cli.context import Cli, endpoint_argument, pass_cli
from mep.cli.files import load_endpoint, parse_mapping, parse_schema, read_given
from mep.cli.output import json_option, print_json, print_table
from mep.cli.state import is_running, read_endpoint_id
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.environment import load_user_environment
from mep.config.parsing import build
from mep.config.paths import EndpointPaths, check_name
from mep.config.sample import sample
from mep.config.yamltext import Located
from mep.host.trusted import check_directory

_DEFAULTS = files("mep.config") / "defaults"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@endpoint_argument
@click.option("--relay", metavar="URL", help="The relay. Default: MEP_RELAY_URL at start.")
@click.option(
    "--id-mapping-config", "mapping", type=_FILE, help="Who becomes whom. Needed when root starts the endpoint."
)
@click.option("--template", "--template-config", type=_FILE, help="The template of user endpoints.")
@click.option("--schema", "--schema-config", type=_FILE, help="The JSON schema of what users may ask for.")
@click.option("--user-env-config", "environment", type=_FILE, help="Environment variables of user endpoints.")
@click.option("--core-config", "--manager-config", "core", type=_FILE, help="Use this config.yaml as it is.")
@click.option("--display-name", help="The name users see.")
@click.option("--contact-email", "email", help="Where users reach the administrators.")
@click.option("--auth-policy", "authentication_policy", help="The service's authentication policy (a UUID).")
@click.option("--subscription-id", help="The subscription (a UUID; hosted service).")
@click.option("--high-assurance", is_flag=True, help="Handle data by the high-assurance rules.")
@click.option("--gate-user", help="The account of the network process.  [default: mep]")
@click.option(
    "--multi-user", type=bool, help="Stock option: root's endpoints serve many users, others their owner."
)
@json_option
@pass_cli
def configure(
    cli: Cli, name: str, *, as_json: bool, multi_user: bool | None, core: Path | None, **given: Any
) -> None:
    """Write a new endpoint's files. Nothing is started and the relay is not asked.

    NAME becomes a folder in the configuration folder; `default` if it is left out.
    """
    if is_uuid(name):
        raise InputError(Code.USAGE, f"An endpoint cannot be named by a UUID: {name}.", step="")
    if multi_user is not None and multi_user != cli.privileged:
        who = "many users" if multi_user else "one user"
        needed = "root" if multi_user else "an ordinary user"
        raise InputError(Code.USAGE, f"An endpoint for {who} is configured by {needed}.", step="")
    paths = cli.locate(check_name(name))
    if paths.directory.exists():
        raise RefusedError(
            Code.ENDPOINT_EXISTS,
            f"{paths.directory} exists already; nothing was changed.",
            step=f"Choose another name, or remove it with `mep delete {name}`.",
        )
    if cli.privileged:
        _check_place(paths.directory.parent)
    texts = _texts(cli, paths, given, core)
    _write(paths.directory, texts)
    _report(cli, paths, texts, as_json=as_json, has_mapping=given["mapping"] is not None)


def _check_place(folder: Path) -> None:
    """Refuse to write where others can change it: what root writes there, they steer, and it would not start."""
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        check_directory(folder)
    except HostError as error:
        if error.code is not Code.CONFIG_UNTRUSTED:
            raise
        raise RefusedError(
            Code.CONFIG_UNTRUSTED,
            f"Nothing was written: {error.admin_text}",
            step="Configure it in a folder that only root can change: --config-dir /etc/mep.",
        ) from None


def _texts(cli: Cli, paths: EndpointPaths, given: dict[str, Any], core: Path | None) -> dict[str, str]:
    """Return every file's text, checked: a folder that exists is one that works."""
    from mep.template import check_template

    texts = {
        paths.template.name: _given_or_default(given["template"], "user_config_template.yaml.j2"),
        paths.schema.name: _given_or_default(given["schema"], "user_config_schema.json"),
        paths.environment.name: _given_or_default(given["environment"], "user_environment.yaml"),
    }
    if given["template"] and not given["schema"]:
        del texts[paths.schema.name]  # the default schema fits the default template only
    if cli.privileged or given["mapping"]:
        texts[paths.mapping.name] = _given_or_default(given["mapping"], "identity_mapping.json")
        parse_mapping(texts[paths.mapping.name], source=str(given["mapping"]), endpoint_id="", timeout_s=5.0)
    check_template(texts[paths.template.name], source=str(given["template"]))
    if paths.schema.name in texts:
        parse_schema(texts[paths.schema.name], source=str(given["schema"]))
    load_user_environment(texts[paths.environment.name], source=str(given["environment"]))
    texts[paths.config.name] = _config_text(paths, given, core)
    return texts


def _given_or_default(path: Path | None, default: str) -> str:
    return (_DEFAULTS / default).read_text(encoding="utf-8") if path is None else read_given(path)


def _config_text(paths: EndpointPaths, given: dict[str, Any], core: Path | None) -> str:
    keys = ("relay", "display_name", "email", "authentication_policy", "subscription_id", "gate_user")
    settings = {key: given[key] for key in keys if given[key]}
    if given["high_assurance"]:
        settings["high_assurance"] = True
    if core is None:
        build(EndpointConfig, Located(settings), source="mep configure")
        return sample(EndpointConfig, settings, heading=f"Settings of the endpoint {paths.name}. Guide: {_GUIDE}.")
    if settings:
        raise InputError(
            Code.USAGE, f"--core-config is used as it is; {', '.join(settings)} cannot be added.", step=""
        )
    text = read_given(core)
    load_endpoint_config(text, source=str(core))
    return text


_PATIENCE_S = 3.0
_GUIDE = "docs/admin/configure.md"


def _write(directory: Path, texts: dict[str, str]) -> None:
    """Write all files, then give the folder its name: it is there with everything in it, or not at all."""
    new = directory.with_name(f".{directory.name}.new")
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name, text in texts.items():
            with open(
                os.open(new / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as file:
                file.write(text)
        new.rename(directory)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise InputError(
            Code.CONFIG_UNREADABLE, f"Cannot write {error.filename or directory}: {error.strerror}.", step=""
        ) from None


def _report(cli: Cli, paths: EndpointPaths, texts: dict[str, str], *, as_json: bool, has_mapping: bool) -> None:
    warnings = []
    if cli.privileged and not has_mapping:
        warnings.append(f"Nobody is mapped yet: edit {paths.mapping}.")
    try:
        check_directory(paths.directory, owner_uid=os.geteuid())
    except MepError as error:
        warnings.append(f"The endpoint will not start: {error.admin_text}")
    if as_json:
        print_json(
            {"name": paths.name, "directory": str(paths.directory), "files": sorted(texts), "warnings": warnings}
        )
    else:
        click.echo(f"Endpoint {paths.name!r} is configured in {paths.directory}:")
        click.echo(f"  {', '.join(sorted(texts))}")
        click.echo(f"Next: `mep check {paths.name}`, then `mep start {paths.name}`.")
    for warning in warnings:
        click.echo(f"mep: warning: {warning}", err=True)


@click.command("list")
@json_option
@pass_cli
def list_endpoints(cli: Cli, *, as_json: bool) -> None:
    """Show the configured endpoints."""
    found = [_summary(cli, name) for name in cli.names()]
    if as_json:
        print_json(found)
        return
    rows = [[one["name"], one["endpoint_id"], one["state"], one["relay"], one["display_name"]] for one in found]
    print_table(
        ["NAME", "ENDPOINT ID", "STATE", "RELAY", "DISPLAY NAME"],
        rows,
        empty=f"No endpoint is configured in {cli.config_dir}. `mep configure NAME` makes one.",
    )
    for one in found:
        if one["problem"]:
            click.echo(f"mep: {one['name']}: {one['problem']}", err=True)


def _summary(cli: Cli, name: str) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": name,
        "endpoint_id": "",
        "state": "",
        "relay": "",
        "display_name": "",
        "problem": "",
    }
    try:
        paths = cli.locate(name)
        running = is_running(paths)
        summary |= {
            "endpoint_id": read_endpoint_id(paths),
            "state": {True: "running", False: "stopped", None: "not visible"}[running],
        }
        config = load_endpoint(cli, name).config
        summary |= {"relay": config.relay_in_file or "", "display_name": config.display_name or ""}
    except MepError as error:
        summary["problem"] = error.for_admin()
    return summary


@click.command()
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Delete here even if the relay cannot be told, or the files are broken."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_cli
def delete(cli: Cli, name: str, *, force: bool, yes: bool) -> None:
    """Remove an endpoint: its files, its state, and its entry at the relay. It must not be running."""
    paths = cli.existing(name)
    if is_running(paths) is not False:
        raise RefusedError(Code.ALREADY_RUNNING, f"{paths.name!r} is running; nothing was deleted.")
    if not yes:
        click.confirm(f"Delete the endpoint {paths.name!r} and everything in {paths.directory}?", abort=True)
    try:
        endpoint_id = read_endpoint_id(paths)
    except MepError as error:
        if not force:
            raise
        endpoint_id = ""
        click.echo(f"mep: warning: the relay was not told: {error.admin_text}", err=True)
    if endpoint_id:
        _tell_relay(cli, paths.name, endpoint_id, force=force)
    for folder in (paths.run_dir, paths.state_dir, paths.directory):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
    click.echo(f"Endpoint {paths.name!r} is deleted.")


def _tell_relay(cli: Cli, name: str, endpoint_id: str, *, force: bool) -> None:
    """Ask the relay to forget it; with `force`, or without credentials, only say that it could not be told."""
    from mep.sdk.credentials import find_authorizer
    from mep.sdk.errors import ComputeAPIError
    from mep.sdk.http import RelayHttp

    try:
        relay = load_endpoint(cli, name).config.relay_url(os.environ.get("MEP_RELAY_URL"))
        authorizer = find_authorizer(relay)
        # First without credentials: whether the relay is there is known in seconds, before a token is asked for.
        RelayHttp(relay, None, retry_s=_PATIENCE_S).request("GET", "/v2/version")
        http = RelayHttp(relay, authorizer, retry_s=_PATIENCE_S)
        http.request("DELETE", f"/v2/endpoints/{endpoint_id}")
    except ComputeAPIError as error:
        if error.http_status == 404:
            return
        if not force:
            code = Code.RELAY_REFUSED if error.http_status else Code.RELAY_UNREACHABLE
            raise ServiceError(code, f"{endpoint_id} was not deleted: {error.message}", step=_FORCE) from None
        click.echo(f"mep: warning: the relay did not delete {endpoint_id}: {error.message}", err=True)
    except MepError as error:
        if not force and error.code is not Code.NOT_LOGGED_IN:
            raise
        click.echo(f"mep: warning: the relay was not told about {endpoint_id}: {error.admin_text}", err=True)


_FORCE = "Correct that, or add --force to delete it here only."
