"""The audit log's lines about tasks: one file for each account, so that nobody's flood displaces others' lines.

The lines say what a user endpoint told of its tasks, under the monitor's own record of whose it is. What cannot be
written is kept until it can; of too many the oldest are given up, and counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Final

from mep.daemon.audit import AuditLog, as_fields
from mep.wire.taskevents import TaskEvent, TaskEvents

log = logging.getLogger(__name__)

_MAX_BYTES: Final = 16 * 1024 * 1024
_KEEP: Final = 4
MAX_WAITING: Final = 20_000  # lines of one account, while its file cannot be written


class TaskLog:
    """Writes beside the audit log, as `<its name>.tasks.<uid>`; `on_trouble` hears when that fails.

    Privilege: write access there.
    """

    def __init__(self, audit: AuditLog, *, on_trouble: Callable[[], None] = lambda: None) -> None:
        self._audit, self._on_trouble = audit, on_trouble
        self._files: dict[int, AuditLog] = {}
        self._waiting: dict[int, _Waiting] = {}

    def write(self, who: dict[str, Any], message: TaskEvents) -> bool:
        """Write what a user endpoint told. `who`: the monitor's facts about it. False: kept for later."""
        uid = int(who["uid"])
        facts = as_fields(who)
        lines = [_line(event, facts) for event in message.events]
        if message.dropped:
            lines.insert(0, _dropped(who, message.dropped))
        waiting = self._waiting.get(uid)
        if waiting is None and self._file(uid).write_all(lines):
            return True
        if waiting is None:
            waiting = self._waiting[uid] = _Waiting()
            self._on_trouble()
        waiting.add(lines, who)
        return False

    def check(self) -> str:
        """Try again what could not be written; return why it still cannot, or ""."""
        for uid, waiting in list(self._waiting.items()):
            file = self._file(uid)
            if not file.write_all(waiting.all()):
                return f"{file.path}: {file.why}"
            del self._waiting[uid]
        return ""

    def stop(self) -> None:
        """The daemon ends: what still cannot be written is lost, and the log says so."""
        if why := self.check():
            lost = sum(waiting.count for waiting in self._waiting.values())
            log.error("AUDIT_UNWRITABLE: %s; %d lines about tasks are lost", why, lost)

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


class _Waiting:
    """Lines of one account, while its file cannot be written."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_WAITING)
        self._who: dict[str, Any] = {}
        self.count = 0  # with those that were given up

    def add(self, lines: list[str], who: dict[str, Any]) -> None:
        self._lines.extend(lines)
        self._who = who
        self.count += len(lines)

    def all(self) -> list[str]:
        """Return what is to be written: before the lines, how many there are no longer."""
        dropped = self.count - len(self._lines)
        return [*([_dropped(self._who, dropped)] if dropped else []), *self._lines]


def _dropped(who: dict[str, Any], count: int) -> str:
    return as_fields({"event": "task-events-dropped", **who, "count": count})


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
