"""The gate: the endpoint's network process, without privilege. Relay and broker before it, the monitor behind.

It parses what comes from the network, and asks the monitor. It knows the endpoint's own credentials; those of user
endpoints it only passes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final

import msgspec

from mep.base.codes import Code
from mep.base.exits import Exit
from mep.broker.loop import new_loop
from mep.daemon import notices
from mep.daemon.commandline import CommandLine
from mep.daemon.gatesettings import GateSettings
from mep.daemon.monitorlink import MonitorLink
from mep.daemon.registrar import Registrar
from mep.daemon.relayclient import RelayClient, RelayRefusal, read_credentials
from mep.wire.privsep import (
    Decision,
    Fatal,
    Owner,
    Registered,
    Reregister,
    Running,
    ServiceState,
    Standing,
    Start,
    Stop,
    UepEvent,
)
from mep.wire.rest import RegistrationAnswer, RegistrationRequest

log = logging.getLogger(__name__)

_GOODBYE_S: Final = 2.0
_ORPHAN_S: Final = 1  # after the monitor's death: tell the relay, and be gone
_MOST_REGISTRATION_BYTES: Final = 8 * 1024 * 1024


def run_gate(settings: GateSettings, monitor_fd: int) -> int:
    """Be the gate until told to stop; returns the exit status. Privilege: none."""
    loop = new_loop()

    async def main() -> int:
        return await Gate(settings, monitor_fd).run()

    return loop.run_until_complete(main())


class Gate:
    """Registers, then carries commands from the broker to the monitor, and what became of them back."""

    def __init__(self, settings: GateSettings, monitor_fd: int) -> None:
        self._settings = settings
        self._parent = os.getppid()
        self._request = settings.registration
        self._leaving: asyncio.Future[bool] = asyncio.get_running_loop().create_future()  # True: with a goodbye
        self._registrar: Registrar | None = None
        self._line: CommandLine | None = None
        self._running: set[str] = set()
        self._untold: list[UepEvent] = []  # ends that came before there was a way to tell the relay
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused_before = False
        self._monitor = MonitorLink(
            monitor_fd,
            {
                Decision: self._on_decision,
                UepEvent: self._on_uep_event,
                Running: self._on_running,
                Reregister: self._on_reregister,
                Stop: self._on_stop,
            },
            on_gone=self._on_monitor_gone,
        )

    # ---- life ----

    async def run(self) -> int:
        """Register, serve, say goodbye."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_terminate)
        starting = self._spawn(self._start())
        goodbye = await self._leaving
        starting.cancel()
        if self._line is not None:
            await self._line.close(self._goodbye() if goodbye else None)
        # A thread may still wait for a relay that does not answer; nothing else is left to do.
        logging.shutdown()
        os._exit(Exit.OK)

    async def _start(self) -> None:
        try:
            credentials = read_credentials(self._settings.credentials_fd)
            client = RelayClient(self._settings.relay_url, self._settings.auth_url, credentials)
            self._registrar = Registrar(client, self._settings.endpoint_id, tell=self._monitor.say)
            if self._settings.ask_owner:
                self._monitor.say(Owner(identities=await self._registrar.owner_identities()))
            answer = await self._register()
        except RelayRefusal as refusal:
            self._fatal(refusal)
            return
        self._line = CommandLine(
            answer,
            name=f"mep gate {self._settings.name}",
            amqp_port=self._settings.amqp_port,
            heartbeat=notices.heartbeat(answer.endpoint_id, self._settings.heartbeat_period_s),
            period_s=self._settings.heartbeat_period_s,
            ask=self._ask,
            dismissed=self._monitor.say,
            tell_state=self._tell_broker,
            on_refused=self._on_broker_refused,
        )
        self._line.open()
        untold, self._untold = self._untold, []
        for event in untold:
            self._on_uep_event(event, None)

    async def _register(self) -> RegistrationAnswer:
        assert self._registrar is not None
        answer = await self._registrar.register(self._request)
        keys = answer.mep.keys if answer.mep is not None else []
        self._monitor.say(Registered(endpoint_id=answer.endpoint_id, keys=keys))
        return answer

    def _goodbye(self) -> Any:
        assert self._registrar is not None
        return notices.heartbeat(self._registrar.endpoint_id, 0)

    def _fatal(self, refusal: RelayRefusal) -> None:
        text = refusal.user_text[:3000]
        self._monitor.say(Fatal(code=refusal.code.value, text=text, exit_code=int(refusal.exit_code)))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """A step that failed in a way nobody foresaw ends the gate; the monitor starts another."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("the gate failed", exc_info=task.exception())
            os._exit(Exit.SOFTWARE)

    # ---- from the broker ----

    def _ask(self, start: Start, payload_fd: int) -> None:
        self._monitor.say(start, payload_fd)

    def _tell_broker(self, state: Standing, since: float, detail: str) -> None:
        self._monitor.say(ServiceState(service="broker", state=state, since=since, detail=detail[:1000]))
        if state == "connected":
            self._refused_before = False

    def _on_broker_refused(self) -> None:
        """The broker does not know us (any more): ask the relay anew; it says so if it has locked us out."""
        if not self._refused_before:
            self._refused_before = True
            self._spawn(self._register_again(final=True))

    async def _register_again(self, *, final: bool) -> None:
        """Register again. `final`: a refusal is the endpoint's end, not only a bad change of a file."""
        if self._registrar is None or self._line is None:
            return  # the first registration is still on its way, with the newest request
        try:
            self._line.renewed(await self._register())
        except RelayRefusal as refusal:
            if final or refusal.code in (Code.NOT_FOUND, Code.LOCKED, Code.AUTH_REQUIRED, Code.FORBIDDEN):
                self._fatal(refusal)
            else:
                log.error("the relay refuses the changed registration: %s", refusal.user_text)

    # ---- from the monitor ----

    def _on_decision(self, decision: Decision, _fd: int | None) -> None:
        if self._line is not None:
            self._line.decided(decision)

    def _on_uep_event(self, event: UepEvent, _fd: int | None) -> None:
        if event.event == "ready":
            self._running.add(event.uep_id)
        else:
            self._running.discard(event.uep_id)
        if self._line is None:
            self._untold.append(event)
        elif event.event == "failed":
            self._line.tell_failed(event)
        elif event.event == "ended":
            self._line.tell_ended(event)

    def _on_running(self, message: Running, _fd: int | None) -> None:
        self._running |= set(message.uep_ids)  # said in parts, to a gate that starts

    def _on_reregister(self, _message: Reregister, fd: int | None) -> None:
        if fd is None:
            return
        try:
            text = os.pread(fd, _MOST_REGISTRATION_BYTES, 0)
            self._request = msgspec.json.decode(text, type=RegistrationRequest)
        finally:
            os.close(fd)
        self._spawn(self._register_again(final=False))

    def _on_stop(self, message: Stop, _fd: int | None) -> None:
        self._leave(goodbye=message.goodbye)

    def _on_terminate(self) -> None:
        """Our parent-death signal; or somebody wants only the gate to go, then the monitor starts another."""
        if os.getppid() == self._parent:
            self._leave(goodbye=False)
        else:
            self._on_monitor_gone()

    def _on_monitor_gone(self) -> None:
        """Without the monitor no user endpoint lives: say so for it, quickly, and be gone, come what may."""
        if self._leaving.done():
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_ORPHAN_S)
        log.error("the monitor is gone")
        for uep_id in sorted(self._running):
            self._on_uep_event(
                UepEvent(
                    uep_id=uep_id,
                    request_id="",
                    event="ended",
                    code=Code.UEP_DIED.value,
                    user_text="The endpoint's daemon ended.",
                ),
                None,
            )
        self._leave(goodbye=True)

    def _leave(self, *, goodbye: bool) -> None:
        if not self._leaving.done():
            self._leaving.set_result(goodbye)
