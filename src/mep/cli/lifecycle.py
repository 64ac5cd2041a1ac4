"""start, stop, restart, status, reload, drain, stop-user."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn

import click
import msgspec

from mep.base.codes import Code
from mep.base.errors import HostError, InputError, MepError, RefusedError
from mep.base.exits import Exit
from mep.cli.context import Cli, endpoint_argument, pass_cli
from mep.cli.output import json_option, print_json, print_table
from mep.cli.state import read_endpoint_id, read_last_failure
from mep.config.paths import EndpointPaths
from mep.wire.control import EndpointStatus, Reply, Request

_STOP_S = 30


@click.command()
@endpoint_argument
@click.option("--detach", is_flag=True, help="Return once the endpoint is up, or with the reason why not.")
@click.option("--wait", "wait_s", type=float, default=60.0, show_default=True, help="Seconds, with --detach.")
@click.option("--credentials-fd", type=int, default=-1, hidden=True)
@pass_cli
def start(cli: Cli, name: str, detach: bool, wait_s: float, credentials_fd: int) -> int:  # noqa: FBT001 - click's
    """Run an endpoint.

    As root it serves many users, each as themselves; otherwise only the person who starts it.
    """
    from mep.cli.failure import describe
    from mep.daemon.lastfailure import remember_failure
    from mep.host.notify import tell_systemd

    paths = None
    try:
        paths = cli.existing(name)
        if credentials_fd < 0:
            _begin_anew_with_credentials(cli, paths.name, detach=detach, wait_s=wait_s)
        return _start(paths, detach=detach, wait_s=wait_s, credentials_fd=credentials_fd)
    except MepError as error:
        tell_systemd(STATUS=describe(error))
        if paths is not None and error.code is not Code.ALREADY_RUNNING:
            remember_failure(paths, describe(error), privileged=cli.privileged)
        raise


def _begin_anew_with_credentials(cli: Cli, name: str, *, detach: bool, wait_s: float) -> None:
    """If the environment holds credentials: execute this command again without them, returning only if not."""
    from mep.daemon.credentials import take_from_environment
    from mep.priv.execute import execute

    environment = dict(os.environ)
    fd = take_from_environment(environment)
    if fd < 0:
        return
    # -P: nothing is imported from the folder that root happens to be in, which may be anybody's
    command = [sys.executable, "-P", "-m", "mep", "--config-dir", str(cli.config_dir), "start", name]
    command += ["--wait", str(wait_s), "--credentials-fd", str(fd)] + (["--detach"] if detach else [])
    execute(command, environment, keep_fds=[fd])


def _start(paths: EndpointPaths, *, detach: bool, wait_s: float, credentials_fd: int) -> int:
    from mep.daemon.gate import run_gate
    from mep.daemon.lock import EndpointLock
    from mep.daemon.prepare import prepare
    from mep.daemon.settings import Parts
    from mep.daemon.start import run_detached, run_here

    warnings: list[str] = []
    endpoint = prepare(paths, environment=os.environ, credentials_fd=credentials_fd, warn=warnings)
    for warning in warnings:
        click.echo(f"mep: {warning}", err=True)
    if endpoint.credentials_fd < 0 and not endpoint.privileged:
        endpoint = replace(endpoint, credentials_fd=_stored_login(endpoint.relay_url))
    if endpoint.credentials_fd < 0:
        raise InputError(
            Code.NOT_LOGGED_IN,
            "The endpoint has no credentials.",
            step="Set MEP_CLIENT_ID and MEP_CLIENT_SECRET (`mep relay client` makes them), or put them as "
            f'{{"client_id": ..., "client_secret": ...}} into {paths.state_dir / "credentials.json"} (mode 0600).',
        )
    lock = EndpointLock(paths.state_dir)
    lock.take()
    parts = Parts(
        boot=_boot,
        run_gate=run_gate,
        preload=_preload,
        check_template=_check_template,
        check_schema=_check_schema,
    )
    if not detach:
        return run_here(endpoint, parts, lock, on_up=lambda _status, _text: None)
    status, text = run_detached(endpoint, parts, lock, wait_s=wait_s)
    if status == Exit.OK:
        click.echo(f"Endpoint {paths.name} ({read_endpoint_id(paths)}) is up.")
        return Exit.OK
    if status == Exit.TRY_AGAIN:
        _tell(paths, Request(verb="stop"))
    click.echo(f"mep: {text}", err=True)
    return status


def _stored_login(relay_url: str) -> int:
    """Return an fd with what `mep login` stored for this relay, or -1. Only for an endpoint that serves its owner.

    Root does not ask: what is read here stays in the memory that user processes are forked from.
    """
    from mep.daemon.credentials import in_memory
    from mep.sdk.login_file import read_login

    login = read_login()
    if login is None or login.relay.rstrip("/") != relay_url.rstrip("/"):
        return -1
    return in_memory({"token": login.token.reveal()})


def _boot(launch: Any) -> int:
    """What a user process becomes. Imported here so that the daemon's rooms need not know it."""
    from mep.endpoint.boot import run

    return run(launch)


def _preload(template: str) -> None:
    """Import, before the first fork, what the template's engines need, and do once what all children do."""
    from mep.endpoint import boot
    from mep.endpoint.rehearsal import rehearse
    from mep.engines.registry import engine_names

    boot.preload([name for name in engine_names() if name in template] or ["ThreadPoolEngine"])
    rehearse()


def _check_template(text: str, source: str, includes: dict[str, str]) -> None:
    from mep.template import check_template

    check_template(text, source=source, includes=includes)


def _check_schema(schema: Any, source: str) -> None:
    from mep.template import check_schema

    check_schema(schema, source=source)


@click.command()
@endpoint_argument
@pass_cli
def stop(cli: Cli, name: str) -> None:
    """Stop an endpoint and everything it started."""
    paths = cli.existing(name)
    if not _stop(paths):
        raise RefusedError(Code.NOT_RUNNING, f"Endpoint {paths.name} is not running.", step="")
    click.echo(f"Endpoint {paths.name} is stopped.")


def _stop(paths: EndpointPaths) -> bool:
    """Stop it and return once it is gone; False if it was not running."""
    from mep.daemon.lock import EndpointLock

    if _tell(paths, Request(verb="stop")) is None:
        return False
    lock = EndpointLock(paths.state_dir)

    def too_late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise HostError(Code.INTERNAL, f"Endpoint {paths.name} has not stopped after {_STOP_S} s.", step="")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(_STOP_S)
    lock.wait_released()
    signal.alarm(0)
    return True


@click.command()
@endpoint_argument
@click.option("--wait", "wait_s", type=float, default=60.0, show_default=True, help="Seconds until it must be up.")
@pass_cli
@click.pass_context
def restart(ctx: click.Context, cli: Cli, name: str, wait_s: float) -> Any:
    """Stop the endpoint if it runs, then start it detached."""
    _stop(cli.existing(name))
    return ctx.invoke(start, name=name, detach=True, wait_s=wait_s, credentials_fd=-1)


@click.command()
@endpoint_argument
@json_option
@pass_cli
def status(cli: Cli, name: str, as_json: bool) -> int:  # noqa: FBT001 - click's
    """Show what an endpoint is doing. Exit status 3 if it is not running."""
    paths = cli.existing(name)
    reply = _tell(paths, Request(verb="status"))
    found = reply.status if reply is not None else None
    if found is None:
        since, failure = read_last_failure(paths)
        found = EndpointStatus(
            name=paths.name, endpoint_id=read_endpoint_id(paths), state="stopped", since=since, failure=failure
        )
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        _show(found)
    return Exit.NOT_RUNNING if found.state == "stopped" else Exit.OK


def _show(found: EndpointStatus) -> None:
    click.echo(f"{found.name} ({found.endpoint_id or 'not registered'}): {found.state}")
    if found.failure:
        when = datetime.fromtimestamp(found.since).astimezone().isoformat(" ", "seconds")
        click.echo(f"  could not go on, {when}: {found.failure}")
    for label, service in (("relay", found.relay), ("broker", found.broker)):
        if service is not None:
            since = datetime.fromtimestamp(service.since).astimezone().isoformat(" ", "seconds")
            detail = f": {service.detail}" if service.detail else ""
            click.echo(f"  {label}: {service.state} since {since}{detail}")
    for problem in found.problems:
        click.echo(f"  takes no work: {problem}")
    if found.kept_by:
        click.echo(f"  user processes are kept by {found.kept_by}")
    for broken in found.broken_files:
        click.echo(f"  not in force: {broken.error}")
    for refusal in found.last_refusals[-5:]:
        click.echo(f"  refused: {refusal.get('identity')}: {refusal.get('code')}: {refusal.get('text')}")
    if found.state != "stopped":
        print_table(
            ("USER", "UID", "PID", "STATE", "TASKS", "USER ENDPOINT", "NOTE"),
            [
                (u.user, u.uid, u.pid, u.state, f"{u.tasks_done}+{u.tasks_pending}", u.uep_id, u.note)
                for u in found.user_endpoints
            ],
            empty="  no user endpoints",
        )


@click.command()
@endpoint_argument
@pass_cli
def reload(cli: Cli, name: str) -> int:
    """Read the configuration files again, as the endpoint does by itself when they change."""
    found = _ask(cli.existing(name), Request(verb="reload")).status
    broken = found.broken_files if found is not None else []
    for file in broken:
        click.echo(f"mep: not in force: {file.error}", err=True)
    return Exit.CONFIG if broken else Exit.OK


@click.command()
@endpoint_argument
@click.option("--off", is_flag=True, help="Take new users again.")
@pass_cli
def drain(cli: Cli, name: str, off: bool) -> None:  # noqa: FBT001 - click's
    """Take no new users; let the present ones finish."""
    found = _ask(cli.existing(name), Request(verb="undrain" if off else "drain")).status
    if found is not None:
        click.echo(f"Endpoint {found.name}: {found.state}, {len(found.user_endpoints)} user endpoint(s).")


@click.command("stop-user")
@click.argument("name")
@click.argument("user")
@pass_cli
def stop_user(cli: Cli, name: str, user: str) -> None:
    """Stop the user endpoints of USER, a local account."""
    click.echo(_ask(cli.existing(name), Request(verb="stop-user", user=user)).text)


def _tell(paths: EndpointPaths, request: Request) -> Reply | None:
    from mep.daemon.controlclient import ask

    return ask(paths.control_socket, request)


def _ask(paths: EndpointPaths, request: Request) -> Reply:
    """Return the endpoint's consent; its refusal and its absence are raised."""
    reply = _tell(paths, request)
    if reply is None:
        raise RefusedError(Code.NOT_RUNNING, f"Endpoint {paths.name} is not running.", step="")
    if not reply.ok:
        raise MepError(Code(reply.code), reply.text, step="")
    return reply
