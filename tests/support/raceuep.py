"""The user endpoint's process of the model, with the real service in it: see raceworld."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mep.base.codes import Code
from mep.daemon.wishes import Wish
from mep.endpoint import service
from mep.endpoint.home import Home
from mep.engines.base import Call, Outcome
from mep.priv.clone import Child, Ended
from mep.priv.limits import Limits
from mep.relay.seals import Seals
from mep.wire import envelope
from mep.wire.launch import Launch
from mep.wire.privsep import Channel, Failed, Go, Mapped, MonitorToChild
from support.racebroker import CORE, SECRET, UEP
from support.virtualtime import Process, settle

if TYPE_CHECKING:
    from support.raceworld import World

BEAT_S = 5.0


class ModelEngine:
    """Two workers; a call's buffer is how long it takes."""

    kind, workers = "model", 2

    def __init__(self, world: World, around: Any) -> None:
        self._world, self._around = world, around
        self._waiting: deque[Call] = deque()
        self._running: dict[str, asyncio.TimerHandle] = {}
        self._held = False

    async def start(self) -> None:
        await asyncio.sleep(0.01)

    def submit(self, call: Call) -> None:
        self._waiting.append(call)
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._held and len(self._running) < self.workers:
            call = self._waiting.popleft()
            self._around.on_start(call.task_id)
            self._world.begins(call.task_id)
            later = asyncio.get_running_loop().call_later
            self._running[call.task_id] = later(float(call.buffer), self._done, call.task_id)

    def _done(self, task_id: str) -> None:
        del self._running[task_id]
        body = envelope.encode(envelope.Result(task_id=task_id, data="done"))
        self._around.on_done(Outcome(task_id, body))
        self._next()

    def facts(self) -> dict[str, Any]:
        return {"outstanding_tasks": len(self._running) + len(self._waiting), "pending_tasks": len(self._waiting)}

    def hold(self) -> None:
        self._held = True

    async def stop(self, _grace_s: float) -> None:
        self._held = True
        for timer in self._running.values():
            timer.cancel()


class Box:
    """A user endpoint's processes: here, one."""

    has_session, first_fd, user_fd, limits = False, None, None, Limits()

    def __init__(self) -> None:
        self.kill: Callable[[], None] = lambda: None

    def kill_all(self, _child: Child) -> None:
        self.kill()

    def is_empty(self) -> bool:
        return True

    def user_end(self) -> Ended | None:
        return None

    def pids(self) -> list[int]:
        return []

    def killed_by_memory(self) -> str:
        return ""

    def remove(self) -> bool:
        return True


class UepProcess:
    """The request process, and the user endpoint that it becomes."""

    _pids = itertools.count(1000)

    def __init__(self, world: World, wish: Wish, box: Box, sock: socket.socket) -> None:
        self.world, self.wish = world, wish
        self.process = Process("uep")
        self._pidfd, self._alive = os.pipe()
        self.child = Child(next(self._pids), self._pidfd)
        self.ended: Ended | None = None
        self.serves = False
        self._sock = sock.dup()
        self._link_fd = -1
        self._sock.settimeout(0.0)
        box.kill = lambda: self.die(Ended(0, 9))
        world.children[self._pidfd] = self
        world.note("fork")
        self.process.run(world.loop, self._life())

    async def _life(self) -> None:
        channel: Channel[Any, Any] = Channel(self._sock, MonitorToChild)
        unmapped = self.world.unmapped  # what is in force when it is forked
        broken = self.world.broken
        await asyncio.sleep(0.02)
        if unmapped:
            self._fail(channel, Code.IDENTITY_NOT_MAPPED)
            return
        channel.send(Mapped(uid=1001, gid=1001, user="alice", rule="r", identity="i"))
        await self._readable()
        got = channel.receive()
        if got is None or not isinstance(got[0], Go):
            self.die(Ended(0, 0))
            return
        await asyncio.sleep(0.05)
        if broken:
            self._fail(channel, Code.TEMPLATE_UNDEFINED)
            return
        assert not any(c.serves for c in self.world.children.values()), "two user endpoints of one id"
        self.serves = True
        self.world.note("boot")
        self._link_fd = self._sock.dup().detach()
        launch = Launch(
            endpoint_id=CORE, endpoint_name="m", uep_id=UEP, request_id=self.wish.request_id, payload_fd=-1,
            payload_sha256="", monitor_fd=self._link_fd, template="", template_source="", schema=None,
            endpoint_config={}, user_name="alice", uid=1001, gid=1001, home="/", heartbeat_period_s=BEAT_S,
            task_events=True,
        )  # fmt: skip
        plan: Any = SimpleNamespace(
            config=self.world.uep_config, config_text="", creds=None, seal_key=Seals(SECRET).uep_key(UEP, 1)
        )
        status = await service.UserEndpoint(launch, plan, Home(str(self.world.folder))).run()
        self.die(Ended(int(status), 0))

    def _fail(self, channel: Channel[Any, Any], code: Code) -> None:
        channel.send(Failed(code=code, user_text=f"{code.value}: no", admin_text="no"))
        self.die(Ended(1, 0))

    async def _readable(self) -> None:
        loop, fd = asyncio.get_running_loop(), self._sock.fileno()
        future = loop.create_future()
        loop.add_reader(fd, lambda: settle(future))
        await future
        loop.remove_reader(fd)

    def die(self, ended: Ended) -> None:
        """Its end, by itself or not: the kernel closes what it had."""
        if self.ended is not None:
            return
        self.ended, self.serves, self.process.dead = ended, False, True
        self.world.note(f"end {ended}")
        if (links := getattr(self.process, "links", None)) is not None:
            links.lost()
        if self._link_fd >= 0:
            self.world.loop.remove_reader(self._link_fd)
            self.world.loop.remove_writer(self._link_fd)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, self._link_fd)  # closes the socket; its owner, who is dead, closes the number
            os.close(null)
        self.world.loop.remove_reader(self._sock.fileno())
        self._sock.close()
        os.close(self._alive)
