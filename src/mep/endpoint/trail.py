"""What the daemon's audit log is told of tasks: collected for a moment, sent together, never in a task's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from mep.engines.base import Call, Outcome
from mep.wire.taskevents import MAX_EVENT_CHARS, MAX_EVENTS, Place, State, TaskEvent, TaskEvents, word

_TOGETHER_S = 0.1
_MAX_WAITING = 50_000  # events, while the monitor is slow; the oldest go, and their number is told

Send = Callable[[TaskEvents], bool]


class Trail:
    """`send` hands a message to the monitor, or returns False where there is no room now. None: nobody asks."""

    def __init__(self, send: Send | None) -> None:
        self._send = send
        self._functions: dict[str, str] = {}
        self._events: list[TaskEvent] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def known(self, calls: Iterable[Call]) -> None:
        """An earlier user endpoint has told of these."""
        self._functions.update({call.task_id: call.function_id for call in calls})

    def received(self, calls: Iterable[Call]) -> None:
        for call in calls if self._send is not None else ():
            self._functions[call.task_id] = call.function_id
            self._tell("received", call.task_id)

    def started(self, task_id: str) -> None:
        self._tell("started", task_id)

    def running(self, task_id: str, place: Place) -> None:
        self._tell("running", task_id, place=place)

    def ended(self, outcome: Outcome) -> None:
        """Some engines learn with the outcome only when and where the task ran."""
        if outcome.ran_at:
            self._tell("running", outcome.task_id, place=outcome.place, at=outcome.ran_at)
        self._tell("ended", outcome.task_id, code=outcome.code, place=outcome.place)
        self._functions.pop(outcome.task_id, None)

    def flush(self) -> bool:
        """Send what has come together; False if some is left."""
        self._timer = None
        while self._send is not None and (self._events or self._dropped):
            count = self._fitting()
            if not self._send(TaskEvents(events=self._events[:count], dropped=self._dropped)):
                self._later()
                return False
            del self._events[:count]
            self._dropped = 0
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fitting(self) -> int:
        """Return how many of the events fit one message."""
        some = self._events[:MAX_EVENTS]
        left = MAX_EVENT_CHARS
        for count, event in enumerate(some):
            left -= event.chars()
            if left < 0:
                return count
        return len(some)

    def _tell(
        self, state: State, task_id: str, *, code: str = "", place: Place | None = None, at: float = 0.0
    ) -> None:
        if self._send is None:
            return
        function_id = self._functions.get(task_id, "")
        event = TaskEvent(state, at or time.time(), word(task_id), word(function_id), word(code), place)
        self._events.append(event)
        if len(self._events) > _MAX_WAITING:
            del self._events[:MAX_EVENTS]
            self._dropped += MAX_EVENTS
        self._later()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TOGETHER_S, self.flush)
