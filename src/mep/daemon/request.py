"""The request process: forked by the monitor for one start command, it ends as the user's own process.

As root it does two things: ask who the identity is (which may be slow, and may run the administrator's program),
and become that user. It never returns into the monitor's code.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import setproctitle

from mep.admit.account import Account
from mep.admit.rules import check_account, check_name
from mep.base.codes import Code
from mep.base.errors import HostError, MepError, RefusedError
from mep.base.exits import Exit
from mep.config.endpoint import EndpointConfig
from mep.daemon.freshstart import execute_boot, fresh_interpreter
from mep.daemon.settings import Endpoint
from mep.daemon.state import clean_environment
from mep.host.accounts import find_account, find_ids, own_account
from mep.identity.mapping import Mapping, Match, not_mapped, usable
from mep.priv import fds, session, syscalls
from mep.priv.become import Terms, User, become_user, settle, take_groups
from mep.priv.box import Box
from mep.priv.pam import Pam
from mep.priv.pamsession import PamSession
from mep.wire.launch import Launch
from mep.wire.privsep import Channel, ChildToMonitor, Failed, Go, Mapped, MonitorToChild, Spawned, cap_text
from mep.wire.signing import StartClaims

log = logging.getLogger(__name__)

_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One start command, verified, with the endpoint's files as they were at that moment."""

    request_id: str
    endpoint_id: str
    claims: StartClaims
    payload_fd: int
    mapping: Mapping | None
    owner_identities: frozenset[str]
    template: str
    template_source: str
    includes: dict[str, str]
    schema: dict[str, Any] | None
    config: EndpointConfig
    plain_config: dict[str, Any]
    environment: dict[str, str]
    endpoint: Endpoint
    boot: Callable[[Launch], int]
    rlimits: dict[int, int]
    controllers: list[str]
    pam_service: str | None
    limit_met: str = ""


def serve_request(request: Request, sock: socket.socket, box: Box) -> int:
    """Be the request process; returns the exit status of the user endpoint it became.

    Every failure is told to the monitor. Privilege: root until the drop (or the owner's, without root).
    """
    channel: Channel[ChildToMonitor, MonitorToChild] = Channel(sock, MonitorToChild)
    monitor_pid = os.getppid()  # asked before anything is waited for: a monitor that dies later is noticed
    leash = box.session_end.fileno() if box.session_end is not None else -1
    own_fd, user_fd = (-1 if fd is None else fd for fd in (box.first_fd, box.user_fd))
    fds.close_all_except([0, 1, 2, sock.fileno(), request.payload_fd, leash, own_fd, user_fd])
    setproctitle.setproctitle(f"mep request: {request.endpoint.name} {request.claims.uep}")
    try:
        account, match = _who(request)
        rule, identity = (match.rule, match.identity) if match else ("owner", request.claims.sub)
        channel.send(
            Mapped(uid=account.uid, gid=account.gid, user=account.name, rule=rule[:1000], identity=identity[:200])
        )
        heard = channel.receive()
        if heard is None or not isinstance(heard[0], Go):
            return Exit.OK  # not admitted: the monitor knows why
        launch = _launch(request, account, match, sock.fileno())
    except MepError as error:
        return _fail(channel, error)
    except Exception as error:
        log.exception("request %s", request.request_id)
        return _fail(channel, _unexpected(error))
    if leash < 0:
        return _become_and_boot(request, account, launch, channel, monitor_pid, {})
    try:
        return _hold_session(request, account, launch, channel, box, leash_fd=leash, monitor_pid=monitor_pid)
    except MepError as error:
        return _fail(channel, error)


def _hold_session(
    request: Request,
    account: Account,
    launch: Launch,
    channel: Channel[Any, Any],
    box: Box,
    *,
    leash_fd: int,
    monitor_pid: int,
) -> int:
    """Be the session process. MepError: it could not begin. Privilege: root, or the owner's without PAM."""
    setproctitle.setproctitle(f"mep session: {request.endpoint.name} {account.name}")
    us, opened = os.getpid(), None
    if request.pam_service is not None:
        syscalls.join_new_session_keyring()  # root's own keys are not the user's; pam_keyinit may make another
        pam = Pam(request.pam_service, account.name)
        take_groups(account.gid, account.gids)
        opened = PamSession(pam, uid=account.uid, parent_pid=monitor_pid, home_fd=box.first_fd)
        account = replace(account, gids=tuple(os.getgroups()))  # modules such as pam_group add to them
    environment = opened.environment if opened else {}
    return session.hold(
        lambda: _become_and_boot(request, account, launch, channel, us, environment),
        leash_fd=leash_fd,
        cgroup_fd=box.user_fd,
        on_spawned=lambda pid: channel.send(Spawned(pid=pid)),
        after=opened.close if opened else None,
        keep_fds=opened.fds if opened else (),
    )


def _become_and_boot(
    request: Request,
    account: Account,
    launch: Launch,
    channel: Channel[Any, Any],
    parent_pid: int,
    opened: dict[str, str],
) -> int:
    """The last steps as root, then the user's own code. `opened`: what PAM put into the environment.

    Privilege: root, or the owner's.
    """
    endpoint = request.endpoint
    user = User(account.name, account.uid, account.gid, account.gids, account.home)
    terms = Terms(
        parent_pid=parent_pid,
        environment=_environment(request, account, opened),
        rlimits=request.rlimits,
        setuid_programs=request.pam_service is not None,
        keep_fds=[launch.payload_fd, launch.monitor_fd],
    )
    try:
        if endpoint.privileged:
            become_user(user, terms)
        else:
            settle(user, terms)
        python = fresh_interpreter(endpoint.config.spawn, request.environment)
        if python is not None:
            execute_boot(python, launch, terms.environment)
    except MepError as error:
        return _fail(channel, error)
    except Exception as error:  # noqa: BLE001 - half a drop must not go on
        return _fail(channel, _unexpected(error))
    return request.boot(launch)


def _who(request: Request) -> tuple[Account, Match | None]:
    """Return the account that this command's identity becomes; RefusedError with a code. Privilege: none."""
    claims, endpoint = request.claims, request.endpoint
    if not endpoint.privileged:
        subjects = {identity.get("sub") or identity.get("id") for identity in claims.ids}
        if not subjects & request.owner_identities:
            raise RefusedError(
                Code.IDENTITY_NOT_OWNER,
                "This endpoint serves only the person who started it.",
                admin_text=f"{claims.username or claims.sub} is not the owner of this endpoint.",
            )
        return own_account(), None
    match = request.mapping.lookup(claims.ids) if request.mapping is not None else None
    if match is None:
        raise not_mapped(claims.ids)
    account = find_account(check_name(match.username))
    gate_uid = endpoint.gate_user.uid if endpoint.gate_user else None
    ids = find_ids(account, request.config.denied_users, request.config.denied_groups)
    check_account(account, request.config, gate_uid=gate_uid, ids=ids)
    return account, match


def _launch(request: Request, account: Account, match: Match | None, monitor_fd: int) -> Launch:
    config = request.config
    return Launch(
        endpoint_id=request.endpoint_id,
        endpoint_name=request.endpoint.name,
        uep_id=request.claims.uep,
        request_id=request.request_id,
        payload_fd=request.payload_fd,
        payload_sha256=request.claims.sha256,
        monitor_fd=monitor_fd,
        template=request.template,
        template_source=request.template_source,
        template_includes=request.includes,
        schema=request.schema,
        endpoint_config=request.plain_config,
        user_name=account.name,
        uid=account.uid,
        gid=account.gid,
        home=account.home,
        mapped=match is not None,
        matched_identity=match.identity if match else "",
        candidate_identities=[i["id"] for i in usable(request.claims.ids)],
        allowed_functions=config.allowed_functions,
        heartbeat_period_s=config.heartbeat_period,
        high_assurance=config.high_assurance,
        task_events=True,
        limits={name: value for name, value in request.plain_config["limits"].items() if value is not None},
        controllers=request.controllers,
        limit_met=request.limit_met,
    )


def _environment(request: Request, account: Account, opened: dict[str, str]) -> dict[str, str]:
    """Nothing of the daemon's own, except without root, where daemon and user are the same person."""
    base = {} if request.endpoint.privileged else clean_environment(request.endpoint.environment)
    return {
        "LANG": "C.UTF-8",
        # Ours last: a task's `python3` is the system's, and an engine finds its helper programs.
        "PATH": f"{_PATH}:{os.path.dirname(sys.executable)}",
        **base,
        **opened,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        **request.environment,
    }


def _fail(channel: Channel[Any, Any], error: MepError) -> int:
    """Tell the monitor, which tells the user and the log. Privilege: none."""
    step = f" {error.step}" if error.step else ""
    try:
        channel.send(
            Failed(
                code=error.code.value,
                user_text=cap_text(error.user_text + step),
                admin_text=cap_text(error.admin_text),
            )
        )
    except OSError:
        pass  # the monitor has given up on us, or is gone
    return Exit.FAILED


def _unexpected(error: Exception) -> MepError:
    return HostError(
        Code.SPAWN_FAILED,
        "The endpoint could not start your process.",
        admin_text=f"{type(error).__name__}: {error}",
    )
