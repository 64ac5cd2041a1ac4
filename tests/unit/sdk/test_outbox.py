"""Batches form from what waits; one request per route at a time; order is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mep.sdk.futures import ComputeFuture
from mep.sdk.outbox import Call, Outbox, Route
from mep.sdk.registry import Function
from mep.sdk.runtime import version_tuple
from support.wait import until

FUNCTION = Function(None, "f")
A, B = (Route(name, "g", "", "", ()) for name in "ab")


def _call(payload: str) -> Call:
    return Call(ComputeFuture(), FUNCTION, payload)


class Recorder:
    """Sends nothing: notes the batches, and holds each request until it may end."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[str]]] = []
        self.may_end = threading.Semaphore(0)

    def send(self, route: Route, calls: list[Call]) -> None:
        self.batches.append((route.endpoint_id, [call.payload for call in calls]))
        self.may_end.acquire(timeout=10)


@contextmanager
def _outbox(batch_size: int = 128) -> Iterator[tuple[Outbox, Recorder]]:
    recorder = Recorder()
    outbox = Outbox(recorder.send, batch_size=batch_size, name="t")
    yield outbox, recorder
    recorder.may_end.release(1000)
    assert outbox.wait_sent(10)
    outbox.close()


def test_the_first_call_goes_at_once_and_the_next_ones_together() -> None:
    with _outbox() as (outbox, recorder):
        outbox.put(A, _call("1"))
        until(lambda: recorder.batches, "the first call is sent")
        for payload in "2345":
            outbox.put(A, _call(payload))
        recorder.may_end.release()
        until(lambda: len(recorder.batches) == 2, "the rest is sent")
        assert recorder.batches == [("a", ["1"]), ("a", ["2", "3", "4", "5"])]


def test_a_batch_has_at_most_the_wanted_size() -> None:
    with _outbox(batch_size=2) as (outbox, recorder):
        for payload in "12345":
            outbox.put(A, _call(payload))
        recorder.may_end.release(1000)
        assert outbox.wait_sent(10)
        assert [len(calls) for _, calls in recorder.batches][1:] in ([2, 2], [2, 1, 1], [2, 2, 1], [2, 1])
        assert [p for _, calls in recorder.batches for p in calls] == list("12345")


def test_large_payloads_do_not_share_a_request() -> None:
    with _outbox() as (outbox, recorder):
        outbox.put(A, _call("0"))
        until(lambda: recorder.batches, "the first call is sent")
        for _ in range(3):
            outbox.put(A, _call("x" * 9 * 1024 * 1024))
        recorder.may_end.release(1000)
        assert outbox.wait_sent(10)
        assert [len(calls) for _, calls in recorder.batches] == [1, 1, 1, 1]


def test_a_slow_route_does_not_hold_up_another() -> None:
    with _outbox() as (outbox, recorder):
        outbox.put(A, _call("1"))
        outbox.put(B, _call("2"))
        until(lambda: len(recorder.batches) == 2, "both routes are under way")


def test_calls_that_are_taken_back_are_not_sent() -> None:
    with _outbox() as (outbox, recorder):
        outbox.put(A, _call("1"))
        until(lambda: recorder.batches, "the first call is sent")
        outbox.put(A, _call("2"))
        assert [call.payload for call in outbox.take_back()] == ["2"]
        recorder.may_end.release()
        assert outbox.wait_sent(10)
        assert recorder.batches == [("a", ["1"])]


def test_versions_are_compared_by_number() -> None:
    assert version_tuple("4.9.1") < version_tuple("4.19.0") == version_tuple("4.19.0rc1")
    assert version_tuple("dev") == ()
