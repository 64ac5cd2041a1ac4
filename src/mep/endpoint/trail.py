"""What the daemon's audit log is told of tasks: collected for a moment, sent together, never in a task's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Literal

from mep.engines.base import Call
from mep.wire.taskevents import MAX_EVENTS, TaskEvent, TaskEvents

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

    def ended(self, task_id: str, code: str) -> None:
        self._tell("ended", task_id, code)
        self._functions.pop(task_id, None)

    def flush(self) -> bool:
        """Send what has come together; False if some is left."""
        self._timer = None
        while self._send is not None and (self._events or self._dropped):
            some = self._events[:MAX_EVENTS]
            if not self._send(TaskEvents(events=some, dropped=self._dropped)):
                self._later()
                return False
            del self._events[:MAX_EVENTS]
            self._dropped = 0
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, state: Literal["received", "started", "ended"], task_id: str, code: str = "") -> None:
        if self._send is None:
            return
        function_id = self._functions.get(task_id, "")
        self._events.append(TaskEvent(state, time.time(), _word(task_id), _word(function_id), _word(code)))
        if len(self._events) > _MAX_WAITING:
            del self._events[:MAX_EVENTS]
            self._dropped += MAX_EVENTS
        self._later()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TOGETHER_S, self.flush)


def _word(text: str) -> str:
    """Return `text` as a message takes it: ids come from the network."""
    return text if len(text) <= 64 and text.isascii() and text.isprintable() and " " not in text else "?"
