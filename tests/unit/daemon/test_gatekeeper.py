"""A gate that cannot be started now is started later: an endpoint without one would look alive and be deaf."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from mep.base.ids import new_id
from mep.daemon.gatekeeper import BURST, DUBIOUS, PER_S, Gatekeeper
from mep.daemon.loop import Loop
from mep.priv import clone
from mep.wire.privsep import (
    Channel,
    Decision,
    GateToMonitor,
    MonitorToGate,
    Running,
    ServiceState,
    Start,
    Stop,
    UepEvent,
)

GUARD_S = 20.0  # the end of a test that hangs


def gatekeeper(
    loop: Loop, live: Callable[[Channel[GateToMonitor, MonitorToGate]], None], **changes: Any
) -> Gatekeeper:
    """Return the keeper of gates that live like this, each a real process; it is stopped with the loop."""

    class Kept(Gatekeeper):
        def _be_the_gate(self, _settings: Any, sock: socket.socket, _said: int, _parent: int) -> int:
            live(Channel(sock, MonitorToGate))
            return 0

    given: dict[str, Any] = {
        "settings": lambda: None,
        "handlers": {ServiceState: lambda _message, _fd: None},
        "running": list,
        "lost": lambda _why: None,
        "gone": loop.stop,
        "cgroup_fd": lambda: None,
        "sweep": lambda: None,
        **changes,
    }
    keeper = Kept(loop, cast(Any, None), lambda _settings, _fd: 0, **given)

    def end() -> None:
        keeper.kill()
        loop.call_later(0.5, loop.stop)

    loop.call_later(GUARD_S, end)
    return keeper


def state(detail: str) -> ServiceState:
    return ServiceState(service="broker", state="connected", since=0.0, detail=detail)


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
                channel.send(state(got[0].request_id))
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
        cgroup_fd=lambda: None,
        sweep=lambda: None,
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


def test_a_gate_that_closes_its_socket_and_lives_on_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    loop, lives, heard = Loop(), list[int](), list[str]()

    def live(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        if not lives:
            channel.close()
            signal.pause()
        channel.send(state("the next one"))
        channel.receive()

    def hear(message: ServiceState, _fd: int | None) -> None:
        heard.append(message.detail)
        keeper.stop()

    keeper = gatekeeper(loop, live, handlers={ServiceState: hear})
    keeper.start()
    lives.append(keeper.pid)
    loop.run()
    assert heard == ["the next one"]
    assert "it has closed its socket and goes on" in caplog.text, "or the end of the test has killed it"


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
        cgroup_fd=lambda: None,
        sweep=lambda: None,
    )
    gc.collect()  # what earlier tests dropped still has descriptors
    before = len(os.listdir("/proc/self/fd"))
    keeper.start_again()
    loop.step(5.0)
    assert len(asked) == 2
    assert "cannot be started: [Errno 11]" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_holds_the_socket_of_a_dead_gate_and_goes_on_talking_keeps_nobody() -> None:
    """A gate that was taken over has forked, and ends: without cgroups what it forked lives on."""
    loop = Loop()
    readable, writable = os.pipe()

    def live(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        for _ in range(4):
            if os.fork() == 0:
                talk(channel)
        os.read(readable, 1)
        os._exit(1)

    def talk(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        signal.alarm(8)
        os.write(writable, b"x")
        with suppress(OSError):
            while True:
                channel.send(state("more"))
        os._exit(0)

    def hear(_message: ServiceState, _fd: int | None) -> None:
        """Some work, in which they can say more."""
        select.select([cast(Any, keeper)._channel], [], [], GUARD_S)

    lost_at: list[float] = []
    keeper = gatekeeper(
        loop, live, handlers={ServiceState: hear}, lost=lambda _why: lost_at.append(time.monotonic())
    )
    keeper.start()
    os.close(writable)
    ended_at = time.monotonic()
    while not lost_at and time.monotonic() - ended_at < GUARD_S:
        loop.step(1.0)
    keeper.stop()
    assert lost_at
    assert lost_at[0] - ended_at < 4.0
    os.close(readable)


def test_a_process_that_is_refused_when_the_gate_dies_costs_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the dead gate's socket takes a process; the next gate does not wait for that."""
    loop, heard = Loop(), list[str]()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))

    def live(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        channel.send(state("here"))
        while (got := channel.receive()) is not None and not isinstance(got[0], Stop):
            pass

    def hear(message: ServiceState, _fd: int | None) -> None:
        heard.append(message.detail)
        if len(heard) == 1:
            os.kill(keeper.pid, signal.SIGKILL)
            monkeypatch.setattr(clone, "spawn", refuse)
        else:
            loop.call_later(0.8, keeper.stop)  # the old socket is closed before

    def refuse(*_: object, **__: object) -> clone.Child:
        monkeypatch.undo()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    lost: list[str] = []
    keeper = gatekeeper(loop, live, handlers={ServiceState: hear}, lost=lost.append)
    keeper.start()
    loop.run()
    assert heard == ["here", "here"]
    assert len(lost) == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_gate_is_told_of_all_that_run_however_many() -> None:
    ids = [new_id() for _ in range(4000)]
    loop, heard = Loop(), list[str]()

    def live(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        named: set[str] = set()
        while (got := channel.receive()) is not None:
            message = got[0]
            if isinstance(message, Running):
                named |= set(message.uep_ids)
            elif isinstance(message, Decision):
                channel.send(state(f"{len(named)} {message.request_id}"))
            elif isinstance(message, Stop):
                return

    def hear(message: ServiceState, _fd: int | None) -> None:
        heard.append(message.detail)
        keeper.stop()

    keeper = gatekeeper(loop, live, handlers={ServiceState: hear}, running=lambda: ids)
    keeper.start()
    keeper.decided(Decision(request_id="r", verdict="started"))
    loop.run()
    assert heard == ["4000 r"]


def test_what_is_too_large_to_be_said_keeps_nothing_else_back(caplog: Any) -> None:
    loop, heard = Loop(), list[str]()

    def live(channel: Channel[GateToMonitor, MonitorToGate]) -> None:
        while (got := channel.receive()) is not None and not isinstance(got[0], Stop):
            if isinstance(got[0], Decision):
                channel.send(state(got[0].request_id))

    def hear(message: ServiceState, _fd: int | None) -> None:
        heard.append(message.detail)
        keeper.stop()

    keeper = gatekeeper(loop, live, handlers={ServiceState: hear})
    keeper.start()
    keeper.say(Decision(request_id="large", verdict="refused", user_text="x" * 100_000), os.open("/dev/null", 0))
    keeper.say(Decision(request_id="next", verdict="started"))
    loop.run()
    assert heard == ["next"]
    assert "too large" in caplog.text


def say_starts(channel: Channel[GateToMonitor, MonitorToGate], count: int) -> None:
    fd = os.memfd_create("start", os.MFD_CLOEXEC)
    for number in range(count):
        channel.send(Start(request_id=str(number), token="x" * 100), fd)
    signal.pause()


def test_a_gate_that_sends_commands_nobody_has_signed_is_heard_slowly() -> None:
    loop, heard = Loop(), list[float]()

    def hear(_message: Start, fd: int | None) -> None:
        assert fd is not None
        os.close(fd)
        heard.append(time.monotonic())
        keeper.charge(DUBIOUS)

    keeper = gatekeeper(loop, lambda channel: say_starts(channel, 1_000_000), handlers={Start: hear})
    keeper.start()
    began, ticks = time.monotonic(), 0
    while time.monotonic() - began < 2.0:
        loop.step(0.1)
        ticks += 1
    keeper.kill()
    keeper.stop()
    loop.run()
    took_s = heard[-1] - began
    assert BURST / DUBIOUS / 2 < len(heard) <= (BURST + PER_S * took_s) / DUBIOUS + 2
    assert ticks < 1000, "a gate that is not heard costs nothing"


def test_a_gate_at_work_is_never_slowed() -> None:
    """As many commands as the broker may have for it after a night without us."""
    count = 10_000
    loop, heard, paused = Loop(), list[str](), list[float]()

    def hear(message: Start, fd: int | None) -> None:
        assert fd is not None
        os.close(fd)
        heard.append(message.request_id)
        if len(heard) == count:
            keeper.kill()
            keeper.stop()

    keeper = gatekeeper(loop, lambda channel: say_starts(channel, count), handlers={Start: hear})
    keeper._pause = paused.append  # type: ignore[method-assign, assignment]
    keeper.start()
    loop.run()
    assert len(heard) == count
    assert not paused
