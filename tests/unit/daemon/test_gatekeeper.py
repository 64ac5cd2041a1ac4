"""A gate that cannot be started now is started later: an endpoint without one would look alive and be deaf."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, cast

import pytest

from mep.daemon.gatekeeper import Gatekeeper
from mep.daemon.loop import Loop
from mep.priv import clone
from mep.wire.privsep import Channel, GateToMonitor, MonitorToGate, Running, ServiceState, Stop, UepEvent


class TwoGates(Gatekeeper):
    """The first gate reads nothing; the second answers each end it hears of."""

    lives = 0

    def start(self) -> None:
        self.lives += 1
        super().start()

    def _be_the_gate(self, _settings: Any, sock: socket.socket, _said: int, _parent: int) -> int:
        if self.lives == 1:
            signal.pause()
        channel: Channel[GateToMonitor, MonitorToGate] = Channel(sock, MonitorToGate)
        while (got := channel.receive()) is not None:
            if isinstance(got[0], Stop):
                break
            if isinstance(got[0], UepEvent):
                channel.send(
                    ServiceState(service="broker", state="connected", since=0.0, detail=got[0].request_id)
                )
        return 0


def test_ends_that_a_gate_did_not_read_are_told_to_the_next() -> None:
    loop, heard = Loop(), list[str]()

    def hear(message: ServiceState, _fd: int | None) -> None:
        heard.append(message.detail)
        if message.detail == "last":
            keeper.stop()

    keeper = TwoGates(
        loop,
        cast(Any, None),
        lambda _settings, _fd: 0,
        settings=lambda: cast(Any, None),
        handlers={ServiceState: hear},
        running=list,
        lost=lambda _why: None,
        gone=loop.stop,
        cgroup_fd=None,
    )
    keeper.start()
    while not keeper._waiting:  # as long as the kernel takes them
        keeper.say(Running(uep_ids=["x"] * 100))
    for request_id in ("first", "last"):
        keeper.say(UepEvent(uep_id="u", request_id=request_id, event="ended"))
    os.kill(keeper.pid, signal.SIGKILL)
    loop.call_later(10.0, keeper.kill)
    loop.call_later(10.5, loop.stop)
    loop.run()
    assert heard == ["first", "last"]


def test_a_refused_process_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """The kernel refuses root a process only where limits that no test can set are reached."""
    asked: list[int] = []

    def refuse(*_: object, **__: object) -> clone.Child:
        asked.append(1)
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(clone, "spawn", refuse)
    loop = Loop()
    keeper = Gatekeeper(
        loop,
        cast(Any, None),
        lambda _settings, _fd: 0,
        settings=lambda: cast(Any, None),
        handlers={},
        running=list,
        lost=lambda _why: None,
        gone=loop.stop,
        cgroup_fd=None,
    )
    before = len(os.listdir("/proc/self/fd"))
    keeper.start_again()
    loop.step(5.0)
    assert len(asked) == 2
    assert "cannot be started: [Errno 11]" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before
