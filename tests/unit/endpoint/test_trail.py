"""What is told of tasks for the audit log: in order, together, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from mep.base.ids import new_id
from mep.endpoint import trail as module
from mep.endpoint.trail import Trail
from mep.engines.base import Call
from mep.wire.limits import MAX_PRIVSEP_BYTES
from mep.wire.privsep import ChildToMonitor
from mep.wire.taskevents import MAX_EVENTS, TaskEvent, TaskEvents


def on_loop(body: Callable[[], None]) -> None:
    async def run() -> None:
        body()

    asyncio.run(run())


def _into(told: list[TaskEvents]) -> Callable[[TaskEvents], bool]:
    """Return a monitor that hears everything at once."""

    def hear(message: TaskEvents) -> bool:
        told.append(message)
        return True

    return hear


def test_each_step_is_told_once_in_order_with_the_function() -> None:
    told: list[TaskEvents] = []

    def body() -> None:
        trail = Trail(_into(told))
        trail.received([Call("t1", "f1", "x"), Call("t2", "f2", "x")])
        trail.started("t1")
        trail.ended("t1", "")
        trail.ended("t2", "TASK_LOST")
        assert told == []
        assert trail.flush()
        trail.close()

    on_loop(body)
    [message] = told
    assert [(e.state, e.task_id, e.function_id, e.code) for e in message.events] == [
        ("received", "t1", "f1", ""),
        ("received", "t2", "f2", ""),
        ("started", "t1", "f1", ""),
        ("ended", "t1", "f1", ""),
        ("ended", "t2", "f2", "TASK_LOST"),
    ]


def test_a_slow_monitor_costs_the_oldest_events_and_their_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 2 * MAX_EVENTS)
    told: list[TaskEvents] = []
    room = False

    def send(message: TaskEvents) -> bool:
        if room:
            told.append(message)
        return room

    def body() -> None:
        nonlocal room
        trail = Trail(send)
        for number in range(3 * MAX_EVENTS):
            trail.started(f"t{number}")
            if number % 100 == 0:
                assert not trail.flush()
        room = True
        assert trail.flush()
        trail.close()

    on_loop(body)
    assert sum(m.dropped for m in told) + sum(len(m.events) for m in told) == 3 * MAX_EVENTS
    assert told[0].dropped == MAX_EVENTS
    assert told[-1].events[-1].task_id == f"t{3 * MAX_EVENTS - 1}"


def test_the_largest_message_fits_and_strange_ids_are_made_harmless() -> None:
    told: list[TaskEvents] = []

    def body() -> None:
        trail = Trail(_into(told))
        for _ in range(MAX_EVENTS):
            trail.received([Call("t" * 64, "f" * 64, "x")])
        trail.ended("x\n{}", "a b\u2028" * 100)
        trail.flush()
        trail.close()

    on_loop(body)
    decoder = msgspec.msgpack.Decoder(ChildToMonitor)
    for message in told:
        body_bytes = msgspec.msgpack.encode(message)
        assert len(body_bytes) < MAX_PRIVSEP_BYTES
        assert decoder.decode(body_bytes) == message
    last = told[-1].events[-1]
    assert (last.task_id, last.code) == ("?", "?")


@pytest.mark.parametrize("bad", ["a b", "a\nb", "é", "\u2028", "x" * 65])
def test_the_monitor_takes_no_other_words(bad: str) -> None:
    message = TaskEvents(events=[TaskEvent("ended", 1.0, new_id(), "", bad)])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(ChildToMonitor).decode(msgspec.msgpack.encode(message))


def test_nobody_asks_nothing_is_kept() -> None:
    def body() -> None:
        trail = Trail(None)
        trail.received([Call("t", "f", "x")])
        trail.ended("t", "")
        assert trail.flush()

    on_loop(body)
