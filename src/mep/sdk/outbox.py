"""Calls that wait to be sent, and the threads that send them.

A batch is what waits for the same route when a sender is free: the first call goes at once, those that come while
its request is under way go together in the next. One request per route is under way at a time, so order is kept.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mep.sdk.futures import ComputeFuture
from mep.sdk.registry import Function

_SENDERS_MOST: Final = 4
_BATCH_CHARS_MOST: Final = 16 * 1024 * 1024  # a relay takes four times this in one request


@dataclass(frozen=True, slots=True)
class Route:
    """What calls of one batch have in common. The two options are JSON texts, "" if not set."""

    endpoint_id: str
    task_group_id: str
    user_endpoint_config: str
    resource_specification: str
    result_serializers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function, arguments serialized and packed."""

    future: ComputeFuture
    function: Function
    payload: str


class Outbox:
    """Hands batches to `send`, which must settle the calls' futures itself and raise nothing."""

    def __init__(self, send: Callable[[Route, list[Call]], None], *, batch_size: int, name: str) -> None:
        self._send = send
        self._batch_size = batch_size
        self._name = name
        self._changed = threading.Condition()
        self._waiting: dict[Route, deque[Call]] = {}  # routes with calls that nobody sends yet
        self._ready: deque[Route] = deque()  # those of them with no request under way
        self._busy: set[Route] = set()
        self._senders = self._idle = 0
        self._closed = False

    def put(self, route: Route, call: Call) -> None:
        """Send it as soon as a sender is free."""
        with self._changed:
            queue = self._waiting.get(route)
            if queue is not None:
                queue.append(call)
                return
            self._waiting[route] = deque((call,))
            if route in self._busy:
                return
            self._ready.append(route)
            if self._idle >= len(self._ready):
                self._changed.notify_all()
            elif self._senders < _SENDERS_MOST:
                self._senders += 1
                name = f"mep-sender-{self._senders}-{self._name}"
                threading.Thread(target=self._work, name=name, daemon=True).start()

    def take_back(self) -> Iterable[Call]:
        """Return the calls that are not under way; they will not be sent."""
        with self._changed:
            calls = [call for queue in self._waiting.values() for call in queue]
            self._waiting.clear()
            self._ready.clear()
            self._changed.notify_all()
        return calls

    def wait_sent(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing waits and nothing is under way; tell whether that came about in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self) -> None:
        """Send what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ready:
                    if self._closed:
                        self._senders -= 1
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                route = self._ready.popleft()
                calls = self._take(route)
                self._busy.add(route)
            self._send(route, calls)
            with self._changed:
                self._busy.remove(route)
                if route in self._waiting:
                    self._ready.append(route)
                self._changed.notify_all()

    def _take(self, route: Route) -> list[Call]:
        queue = self._waiting[route]
        calls, chars = [queue.popleft()], 0
        while queue and len(calls) < self._batch_size:
            chars += len(calls[-1].payload)
            if chars + len(queue[0].payload) > _BATCH_CHARS_MOST:
                break
            calls.append(queue.popleft())
        if not queue:
            del self._waiting[route]
        return calls
