"""The audit log's lines about tasks: one file for each account, so that nobody's flood displaces others' lines.

The lines say what a user endpoint told of its tasks, under the monitor's own record of whose it is. What cannot be
written is kept (so much of it) until it can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Final

from mep.daemon.audit import AuditLog, as_fields
from mep.wire.taskevents import TaskEvent, TaskEvents

_MAX_BYTES: Final = 16 * 1024 * 1024
_KEEP: Final = 4
_MAX_WAITING: Final = 20_000  # lines of one account, while its file cannot be written


class TaskLog:
    """Writes beside the audit log, as `<its name>.tasks.<uid>`; `on_trouble` hears when that fails.

    Privilege: write access there.
    """

    def __init__(self, audit: AuditLog, *, on_trouble: Callable[[], None] = lambda: None) -> None:
        self._audit, self._on_trouble = audit, on_trouble
        self._files: dict[int, AuditLog] = {}
        self._waiting: dict[int, deque[str]] = {}

    def write(self, who: dict[str, Any], message: TaskEvents) -> bool:
        """Write what a user endpoint told. `who`: the monitor's facts about it. False: kept for later."""
        uid = int(who["uid"])
        facts = as_fields(who)
        lines = [_line(event, facts) for event in message.events]
        if message.dropped:
            lines.insert(0, as_fields({"event": "task-events-dropped", **who, "count": message.dropped}))
        waiting = self._waiting.get(uid)
        if waiting is not None:
            waiting.extend(lines)
            return False
        if self._file(uid).write_all(lines):
            return True
        self._waiting[uid] = deque(lines, maxlen=_MAX_WAITING)
        self._on_trouble()
        return False

    def check(self) -> str:
        """Try again what could not be written; return why it still cannot, or ""."""
        for uid, lines in list(self._waiting.items()):
            file = self._file(uid)
            if not file.write_all(list(lines)):
                return f"{file.path}: {file.why}"
            del self._waiting[uid]
        return ""

    def close(self, uid: int) -> None:
        """The last user endpoint of the account has gone; a later line opens its file again."""
        if uid not in self._waiting and (file := self._files.pop(uid, None)) is not None:
            file.close()

    def _file(self, uid: int) -> AuditLog:
        if uid not in self._files:
            path: Path | None = self._audit.path
            if path is not None:
                path = path.with_name(f"{path.name}.tasks.{uid}")
            self._files[uid] = AuditLog(path, max_bytes=_MAX_BYTES, keep=_KEEP)
        return self._files[uid]


def _line(event: TaskEvent, facts: str) -> str:
    """Return what is written of one event; of its place, what is known. Thousands a second: no detours."""
    text = (
        f'"event": "task-{event.state}", {facts}, "task": {quoted(event.task_id)}, '
        f'"function": {quoted(event.function_id)}, "at": {event.at:.3f}'
    )
    place = event.place
    if place is not None:
        if place.host:
            text += f', "worker_host": {quoted(place.host)}'
        if place.pid:
            text += f', "worker_pid": {place.pid}'
        if place.block:
            text += f', "block": {quoted(place.block)}, "job": {quoted(place.job)}'
    if event.state == "ended":
        text += f', "outcome": {quoted(event.code or "success")}'
    return text
