"""What is told of tasks for the audit log: in order, together, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from mep.base.ids import new_id
from mep.endpoint import trail as module
from mep.endpoint.trail import Trail
from mep.engines.base import Call, Outcome
from mep.wire.limits import MAX_PRIVSEP_BYTES
from mep.wire.privsep import ChildToMonitor
from mep.wire.taskevents import MAX_EVENTS, Place, TaskEvent, TaskEvents


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
        trail.running("t1", Place(7))
        trail.ended(Outcome("t1", b""))
        trail.ended(Outcome("t2", b"", "TASK_LOST"))
        assert told == []
        assert trail.flush()
        trail.close()

    on_loop(body)
    [message] = told
    assert [(e.state, e.task_id, e.function_id, e.code, e.place) for e in message.events] == [
        ("received", "t1", "f1", "", None),
        ("received", "t2", "f2", "", None),
        ("started", "t1", "f1", "", None),
        ("running", "t1", "f1", "", Place(7)),
        ("ended", "t1", "f1", "", None),
        ("ended", "t2", "f2", "TASK_LOST", None),
    ]


def test_where_and_since_when_it_ran_may_come_with_the_outcome() -> None:
    told: list[TaskEvents] = []
    place = Place(7, "node1", "0", "4711")

    def body() -> None:
        trail = Trail(_into(told))
        trail.ended(Outcome("t", b"", place=place, ran_at=5.0))
        trail.ended(Outcome("u", b"", "WORKER_LOST", place=place))
        trail.flush()
        trail.close()

    on_loop(body)
    [message] = told
    assert [(e.state, e.task_id, e.place) for e in message.events] == [
        ("running", "t", place),
        ("ended", "t", place),
        ("ended", "u", place),
    ]
    assert message.events[0].at == 5.0


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
        trail.received([Call("t" * 64, "f" * 64, "x")])
        for _ in range(MAX_EVENTS):
            trail.running("t" * 64, Place(1 << 31, "h" * 64, "b" * 64, "j" * 64))
        for number in range(MAX_EVENTS):
            trail.received([Call(f"{number:036}", f"{number:036}", "x")])
        trail.ended(Outcome("x\n{}", b"", "a b\u2028" * 100))
        trail.flush()
        trail.close()

    on_loop(body)
    decoder = msgspec.msgpack.Decoder(ChildToMonitor)
    for message in told:
        body_bytes = msgspec.msgpack.encode(message)
        assert len(body_bytes) < MAX_PRIVSEP_BYTES
        assert message.events
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
        trail.ended(Outcome("t", b""))
        assert trail.flush()

    on_loop(body)
