"""The monitor: the endpoint's root process. No network, no threads; it verifies, admits, forks, reaps, kills."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import setproctitle

from mep.base.codes import Code, next_step
from mep.base.errors import InputError, MepError
from mep.base.exits import Exit
from mep.daemon.audit import AuditLog
from mep.daemon.controlserver import ControlServer
from mep.daemon.files import LiveFiles
from mep.daemon.gatekeeper import DUBIOUS, Gatekeeper
from mep.daemon.gatesettings import GateSettings
from mep.daemon.introduction import registration_of
from mep.daemon.keeper import Keeper
from mep.daemon.lastfailure import forget_failure, remember_failure
from mep.daemon.loop import Loop, Timer
from mep.daemon.outcomes import Outcomes
from mep.daemon.request import Request, serve_request
from mep.daemon.settings import Endpoint, Parts
from mep.daemon.shelter import Shelter
from mep.daemon.state import State, make_private_directory
from mep.daemon.tasklog import TaskLog
from mep.daemon.ties import Ties
from mep.daemon.verify import Verifier
from mep.daemon.wishes import Wish
from mep.host.notify import tell_systemd
from mep.host.watch import Watch
from mep.priv import clone, fds
from mep.priv.box import Box
from mep.priv.limits import Limits
from mep.wire import control
from mep.wire.control import EndpointStatus, Reply, ServiceStatus
from mep.wire.privsep import Dismissed, Fatal, Owner, Registered, Reregister, ServiceState, Start

log = logging.getLogger(__name__)

_AUDIT_AGAIN_S = 2.0
_SETTLE_S = 0.2  # an editor writes a file in several steps; several files change together

OnUp = Callable[[int, str], None]


class Monitor:
    """One run of one endpoint. `on_up(0, "")` is called once it is registered and consumes, or with an exit
    status and the reason if that can never be."""

    def __init__(self, endpoint: Endpoint, parts: Parts, *, on_up: OnUp) -> None:
        """Read all files; fork the guard, then the gate. MepError says what is in the way.

        Privilege: root for a multi-user endpoint.
        """
        self._endpoint, self._parts, self._on_up = endpoint, parts, on_up
        self._name = endpoint.name
        setproctitle.setproctitle(f"mep monitor: {self._name}")
        self._state = State(endpoint.paths, privileged=endpoint.privileged)
        make_private_directory(endpoint.paths.run_dir, privileged=endpoint.privileged)
        self._files = LiveFiles(
            endpoint.paths,
            endpoint_id=self._state.endpoint_id,
            privileged=endpoint.privileged,
            config=endpoint.config,
            parts=parts,
        )
        self._loop = Loop()
        fds.raise_limit()  # a user endpoint takes up to 7 descriptors
        self._shelter = Shelter(self._loop, self._state, name=self._name, unique=str(endpoint.paths.state_dir))
        config = endpoint.config
        self._limits = Limits(**config.limits.model_dump())
        self._pam_service = config.pam.service_name if config.pam.enable and endpoint.privileged else None
        self._verifier = Verifier(self._state, required=config.require_signed_commands)
        self._owner_identities: frozenset[str] = frozenset()
        self._services: dict[str, ServiceStatus] = {}
        self._since = time.time()
        self._exit = int(Exit.OK)
        self._up = False
        self._stopping = False
        self._settling: Timer | None = None
        self._control: ControlServer | None = None
        self._audit = AuditLog(endpoint.paths.audit_log, on_change=lambda _healthy, _why: self._audit_changed())
        self._audit_timer: Timer | None = None
        self._audit.open(trusted=endpoint.privileged)
        self._outcomes = Outcomes(
            decided=lambda decision: self._gate.decided(decision),
            happened=lambda event: self._gate.say(event),
            audit=self._audit,
            task_log=TaskLog(self._audit, on_trouble=self._audit_changed),
            later=self._loop.call_later,
        )
        self._keeper = self._make_keeper()
        self._gate = self._make_gate()

    def _make_keeper(self) -> Keeper:
        return Keeper(
            self._loop,
            self._endpoint,
            Ties(
                make_box=lambda name: self._shelter.make_box(
                    name, session=self._pam_service is not None, limits=self._limits
                ),
                fork=self._fork,
                outcomes=self._outcomes,
                obeyed=lambda wish: self._state.remember_command(wish.claims.jti, wish.claims.iat),
                empty=self._all_gone,
                rules=lambda: self._files.config,
                edition=lambda: self._files.edition,
            ),
        )

    def _make_gate(self) -> Gatekeeper:
        return Gatekeeper(
            self._loop,
            self._endpoint,
            self._parts.run_gate,
            settings=self._gate_settings,
            handlers={
                Start: self._on_start,
                ServiceState: self._on_service,
                Registered: self._on_registered,
                Owner: self._on_owner,
                Dismissed: lambda message, _fd: self._outcomes.dismissed(message),
                Fatal: self._on_fatal,
            },
            running=self._keeper.ids,
            lost=self._on_gate_lost,
            gone=self._loop.stop,
            cgroup_fd=self._shelter.gate_cgroup_fd,
            sweep=self._shelter.end_gate,
        )

    # ---- life ----

    def run(self) -> int:
        """Serve until stopped; returns the exit status. Privilege: root for a multi-user endpoint."""
        self._gate.start()
        self._parts.preload(self._files.template.text)
        self._control = ControlServer(
            self._loop, self._endpoint.paths.control_socket, self._verbs(), owner_uid=self._endpoint.owner.uid
        )
        self._watch = Watch(self._files.paths())
        self._loop.watch(self._watch.fileno(), self._on_changed)
        self._loop.catch_signals(
            {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._on_hangup}
        )
        # What is loaded by now is shared by all forks for as long as nobody writes to it: the collector would.
        gc.collect()
        gc.freeze()
        # It counts the names that it holds: a child that looks others up would write to those it forgets, too.
        clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
        if clear is not None:  # the first is Python 3.13's name for it
            clear()
        log.info(
            "endpoint %s: serving %s, user processes are kept by %s",
            self._name,
            "many users" if self._endpoint.privileged else "its owner only",
            self._shelter.describe(),
        )
        try:
            self._loop.run()
        finally:
            self._control.close()
            self._shelter.close()
            self._outcomes.stop()
        return self._exit

    def _stop(self) -> None:
        """Let everybody finish: user endpoints first, then the gate, then we."""
        if self._stopping:
            return
        self._stopping = True
        log.info("endpoint %s: stopping", self._name)
        tell_systemd(STOPPING="1")
        self._keeper.stop_all()

    def _all_gone(self) -> None:
        if self._stopping:
            self._gate.stop()

    def _audit_changed(self) -> None:
        """It can no longer be written, or again: looked at now, and while it cannot, now and then."""
        if self._audit_timer is None:
            self._audit_timer = self._loop.call_later(0.0, self._look_at_audit)

    def _look_at_audit(self) -> None:
        self._audit_timer = None
        problems = self._outcomes.problems()
        self._keeper.hold(problems[0] if problems else "")
        if problems:
            self._audit_timer = self._loop.call_later(_AUDIT_AGAIN_S, self._look_at_audit)

    # ---- from the gate ----

    def _on_start(self, start: Start, fd: int | None) -> None:
        try:
            if fd is None:
                raise InputError(Code.COMMAND_MALFORMED, "The start request came without its payload.")
            claims = self._verifier.claims_of(start)
            seen = self._verifier.seen_before(claims)
        except MepError as error:
            if fd is not None:
                os.close(fd)
            self._gate.charge(DUBIOUS)
            self._outcomes.refused(start.request_id, error, None)
            return
        if seen:
            self._gate.charge(DUBIOUS)
        wish = Wish(request_id=start.request_id, claims=claims, payload_fd=fd, at=time.monotonic())
        self._keeper.start(wish, seen=seen)

    def _on_gate_lost(self, why: str) -> None:
        now = time.time()
        for service in self._services:
            self._services[service] = ServiceStatus(state="connecting", since=now, detail=f"the gate ended: {why}")

    def _on_service(self, message: ServiceState, _fd: int | None) -> None:
        self._services[message.service] = ServiceStatus(
            state=message.state, since=message.since, detail=message.detail
        )
        if not self._stopping:
            tell_systemd(STATUS=", ".join(s.describe(name) for name, s in self._services.items()))
        if message.service == "broker" and message.state == "connected" and not self._up:
            self._up = True
            tell_systemd(READY="1")
            forget_failure(self._endpoint.paths)
            log.info("endpoint %s (%s): up", self._name, self._state.endpoint_id)
            self._on_up(Exit.OK, "")

    def _on_registered(self, message: Registered, _fd: int | None) -> None:
        try:
            self._state.accept_id(message.endpoint_id)
            if self._endpoint.config.require_signed_commands is not False:
                self._state.accept_keys(message.keys)
        except MepError as error:
            self._fail(Exit.UNAVAILABLE, error.for_admin())

    def _on_owner(self, message: Owner, _fd: int | None) -> None:
        self._owner_identities = frozenset(message.identities)

    def _on_fatal(self, message: Fatal, _fd: int | None) -> None:
        step = next_step(Code(message.code)).admin if message.code in Code.__members__ else ""
        self._fail(message.exit_code, f"{message.code}: {message.text}" + (f" {step}" if step else ""))

    def _fail(self, status: int, text: str) -> None:
        log.error("endpoint %s: cannot go on: %s", self._name, text)
        tell_systemd(STATUS=text)
        remember_failure(self._endpoint.paths, text, privileged=self._endpoint.privileged)
        self._exit = status
        if not self._up:
            self._on_up(status, text)
        self._stop()

    # ---- user endpoints ----

    def _fork(self, wish: Wish, box: Box, sock: socket.socket) -> clone.Child:
        """Fork the request process. Privilege: root, or none without root."""
        template = self._files.template
        request = Request(
            request_id=wish.request_id,
            endpoint_id=self._state.endpoint_id,
            claims=wish.claims,
            payload_fd=wish.payload_fd,
            mapping=self._files.mapping,
            owner_identities=self._owner_identities,
            template=template.text,
            template_source=template.source,
            includes=template.includes,
            schema=self._files.schema,
            config=self._files.config,
            plain_config=self._files.plain_config,
            environment=self._files.environment,
            endpoint=self._endpoint,
            boot=self._parts.boot,
            rlimits=self._shelter.rlimits(self._limits),
            controllers=sorted(self._shelter.controllers),
            pam_service=self._pam_service,
            limit_met=self._outcomes.take_limit_met(wish.claims.uep),
        )
        child = clone.spawn(lambda: serve_request(request, sock, box), cgroup_fd=box.first_fd)
        box.forked()
        return child

    # ---- configuration ----

    def _on_changed(self) -> None:
        if self._watch.changed() and self._settling is None:
            self._settling = self._loop.call_later(_SETTLE_S, self._reload)

    def _on_hangup(self) -> None:
        self._reload(asked=True)

    def _reload(self, *, asked: bool = False) -> None:
        """Read the files again. `asked`: by a person; then the relay is asked, too, as it may have new keys."""
        self._settling = None
        registered_text_changed = self._files.reload()
        self._watch.set_paths(self._files.paths())
        if registered_text_changed or asked:
            fd = os.memfd_create("registration", os.MFD_CLOEXEC)
            os.write(fd, msgspec.json.encode(registration_of(self._endpoint, self._files)))
            os.lseek(fd, 0, os.SEEK_SET)
            self._gate.say(Reregister(), fd)

    def _gate_settings(self) -> GateSettings:
        return GateSettings(
            name=self._name,
            relay_url=self._endpoint.relay_url,
            auth_url=self._endpoint.auth_url,
            registration=registration_of(self._endpoint, self._files),
            endpoint_id=self._state.endpoint_id,
            heartbeat_period_s=self._endpoint.config.heartbeat_period,
            amqp_port=self._endpoint.config.amqp_port,
            ask_owner=not self._endpoint.privileged,
            credentials_fd=self._endpoint.credentials_fd,
        )

    # ---- control socket ----

    def _verbs(self) -> dict[str, Callable[[control.Request], Reply]]:
        return {
            "status": lambda _: Reply(ok=True, status=self._status()),
            "stop": lambda _: self._answer(self._stop),
            "reload": lambda _: self._answer(lambda: self._reload(asked=True)),
            "drain": lambda _: self._answer(lambda: self._drain(on=True)),
            "undrain": lambda _: self._answer(lambda: self._drain(on=False)),
            "stop-user": self._stop_user,
        }

    def _answer(self, act: Callable[[], Any]) -> Reply:
        act()
        return Reply(ok=True, status=self._status())

    def _drain(self, *, on: bool) -> None:
        self._keeper.draining = on
        log.info("endpoint %s: %s", self._name, "draining" if on else "takes new work again")

    def _stop_user(self, request: control.Request) -> Reply:
        self._on_changed()
        if self._settling is not None:  # whoever denied a user just before means both
            self._settling.cancel()
            self._reload()
        count = self._keeper.stop_user(request.user)
        if not count:
            return Reply(ok=False, code=Code.NOT_FOUND, text=f"{request.user!r} has no user endpoint here.")
        return Reply(ok=True, text=f"{count} user endpoint(s) of {request.user} are told to finish.")

    def _status(self) -> EndpointStatus:
        if self._stopping:
            state = "stopping"
        elif not self._up:
            state = "starting"
        else:
            state = "draining" if self._keeper.draining else "running"
        return EndpointStatus(
            name=self._name,
            endpoint_id=self._state.endpoint_id,
            state=state,
            pid=os.getpid(),
            since=self._since,
            relay=self._services.get("relay"),
            broker=self._services.get("broker"),
            user_endpoints=self._keeper.statuses(),
            broken_files=self._files.broken,
            last_refusals=list(self._outcomes.shown),
            kept_by=self._shelter.describe(),
            problems=self._outcomes.problems(),
        )
