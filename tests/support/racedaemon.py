"""The daemon of the model: the monitor's real Keeper, a gate before it. See raceworld."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from mep.base.codes import Code
from mep.daemon import notices
from mep.daemon.audit import AuditLog
from mep.daemon.keeper import Keeper
from mep.daemon.outcomes import Outcomes
from mep.daemon.tasklog import TaskLog
from mep.daemon.ties import Ties
from mep.daemon.wishes import Wish
from mep.priv import clone
from mep.relay.seals import Seals
from mep.wire import envelope, sealed
from mep.wire.privsep import Decision, UepEvent
from mep.wire.signing import StartClaims
from support.racebroker import CORE, SECRET, UEP, ModelConsumer
from support.raceuep import BEAT_S, Box, UepProcess
from support.virtualtime import Process

if TYPE_CHECKING:
    from support.raceworld import World

GRACE_S = 3.0


class DaemonLoop:
    """As daemon.Loop, on asyncio's."""

    def __init__(self, process: Process) -> None:
        self._process, self._fds = process, set[int]()

    def watch(self, fd: int, callback: Callable[[], None], _events: int = 0) -> None:
        self._fds.add(fd)
        asyncio.get_running_loop().add_reader(fd, lambda: None if self._process.dead else callback())

    def unwatch(self, fd: int) -> None:
        if fd in self._fds:
            self._fds.discard(fd)
            asyncio.get_running_loop().remove_reader(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    def insist(self, call: Callable[[], None], _what: str) -> None:
        call()

    def close(self) -> None:
        for fd in list(self._fds):
            self.unwatch(fd)


class Daemon:
    """The monitor's Keeper, and a gate before it."""

    def __init__(self, world: World) -> None:
        self.world, self.process, self.over = world, Process("monitor"), False
        self.gate: Gate | None = None
        self.kept: list[UepEvent] = []
        self.loop = DaemonLoop(self.process)
        audit = AuditLog(None)
        outcomes = Outcomes(decided=self._decided, happened=self._happened, audit=audit, task_log=TaskLog(audit))
        endpoint: Any = SimpleNamespace(
            config=SimpleNamespace(mapping_timeout_s=5.0, start_timeout_s=20.0), grace_s=GRACE_S
        )
        rules: Any = SimpleNamespace(
            max_user_endpoints=None, max_user_endpoints_per_user=None, start_rate_per_user=None
        )
        ties: Any = Ties(
            make_box=lambda _name: Box(),  # type: ignore[arg-type,return-value]
            fork=lambda wish, box, sock: UepProcess(world, wish, box, sock).child,  # type: ignore[arg-type]
            outcomes=outcomes,
            obeyed=lambda wish: world.obeyed.add(wish.claims.jti),
            empty=self._empty,
            rules=lambda: rules,
            edition=lambda: world.edition,
        )
        self.keeper = Keeper(self.loop, endpoint, ties)  # type: ignore[arg-type]
        self.keeper.draining = world.draining
        self.process.run(world.loop, self._start_gate())

    async def _start_gate(self) -> None:
        """Each gate introduces the endpoint to the relay, then listens to the broker."""
        while not (relay := self.world.relay).ready.is_set() or relay.process.dead:
            await asyncio.sleep(0.05)
        relay.process.call(relay.register)
        if self.over:
            return
        self.gate = Gate(self)
        kept, self.kept = self.kept, []
        for event in kept:
            self._happened(event)

    def _decided(self, decision: Decision) -> None:
        if self.gate is not None:
            gate = self.gate
            gate.process.call(lambda: self.world.loop.call_later(0.005, gate.decided, decision))

    def _happened(self, event: UepEvent) -> None:
        gate = self.gate
        if gate is None:
            self.kept.append(event)
        else:
            gate.process.call(lambda: self.world.loop.call_later(0.005, gate.happened, event))

    def kill_gate(self) -> None:
        if self.gate is not None and not self.over:
            self.gate.die()
            self.gate = None
            start = lambda: self.process.run(self.world.loop, self._start_gate())  # noqa: E731
            self.process.call(lambda: self.world.loop.call_later(0.5, start))

    def stop(self) -> None:
        """`mep stop`."""
        if not self.keeper.stopping:
            self.process.call(self.keeper.stop_all)

    def _empty(self) -> None:
        if self.keeper.stopping and not self.over:
            self.over = True
            if self.gate is not None:
                self.gate.goodbye()
            self._clear()

    def kill(self) -> None:
        """kill -9; the guard ends the user endpoints, the gate says goodbye for them."""
        if self.over:
            return
        self.over = True
        lives = self.keeper.ids()
        self.process.dead = True
        for child in list(self.world.children.values()):
            child.die(clone.Ended(0, 9))
        if self.gate is not None:
            gate = self.gate
            for uep_id in lives:
                gate.send(notices.ended(uep_id, code="UEP_DIED", text="gone", period_s=BEAT_S))
            gate.goodbye()
        self._clear()

    def _clear(self) -> None:
        self.loop.close()
        for uep in self.keeper._ueps.values():
            uep.channel.sock.close()
            os.close(uep.child.pidfd)
            if (wish := uep.wishes.take_next(by_itself=True)) is not None:
                wish.close()


class Gate:
    """Takes start commands, acknowledges them when they are decided, tells the relay."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._world = daemon, daemon.world
        self.process = Process("gate")
        self._pending: dict[str, Any] = {}
        seals = Seals(SECRET)
        self._opener, self._sealer = seals.commands(CORE, 1), seals.notices(CORE, 1)
        self._consumer: ModelConsumer = self.process.call(
            lambda: ModelConsumer(self._world.broker, f"{CORE}.commands", self._on_delivery, 100)
        )
        self.process.run(self._world.loop, self._beat())

    async def _beat(self) -> None:
        while True:
            if self._world.broker.up.is_set():
                self.send(notices.heartbeat(CORE, BEAT_S))
            await asyncio.sleep(BEAT_S)

    def _on_delivery(self, delivery: Any) -> None:
        opened = sealed.decode_command(self._opener.open(delivery.body)[1])
        claims = msgspec.json.decode(opened.body, type=StartClaims)
        self._pending[claims.jti] = delivery
        daemon = self._daemon
        daemon.process.call(lambda: self._world.loop.call_later(0.005, self._ask, claims))

    def _ask(self, claims: StartClaims) -> None:
        if self._daemon.over:
            return
        wish = Wish(claims.jti, claims, os.open(os.devnull, os.O_RDONLY), 0.0)
        self._daemon.keeper.start(wish, seen=claims.jti in self._world.obeyed)

    def decided(self, decision: Decision) -> None:
        delivery = self._pending.pop(decision.request_id, None)
        self._world.note(f"{decision.verdict} {decision.code}")
        if delivery is None:
            return
        self._consumer.ack(delivery)
        if decision.verdict == "refused" and decision.code != Code.COMMAND_REPLAYED:
            self._failed(decision.request_id, decision.code, decision.user_text)

    def happened(self, event: UepEvent) -> None:
        if event.event == "failed":
            self._failed(event.request_id, event.code, event.user_text)
        elif event.event == "ended":
            self.send(notices.ended(UEP, code=event.code, text=event.user_text, period_s=BEAT_S))

    def _failed(self, request_id: str, code: str, text: str) -> None:
        self.send(notices.start_failed(UEP, request_id=request_id, code=code, text=text, period_s=BEAT_S))

    def send(self, report: envelope.StatusReport) -> None:
        """Now, or when the broker is back."""
        if self._world.broker.up.is_set():
            body = self._sealer.seal(envelope.encode(report))
            message = {"sender": CORE, "body": body, "headers": {}}
            self._world.broker.put("heartbeats", message)
        else:
            self.process.call(lambda: self._world.loop.call_later(0.2, self.send, report))

    def goodbye(self) -> None:
        self.send(notices.heartbeat(CORE, 0))
        self.die()

    def die(self) -> None:
        self.process.dead = True
        self._consumer.cancel()
