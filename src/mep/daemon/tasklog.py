"""The audit log's lines about tasks: one file for each account, so that nobody's flood displaces others' lines.

The lines say what a user endpoint told of its tasks, under the monitor's own record of whose it is. What cannot be
written is kept (so much of it) until it can.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mep.daemon.audit import AuditLog
from mep.wire.taskevents import TaskEvents

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
        self._waiting: dict[int, deque[dict[str, Any]]] = {}

    def write(self, who: dict[str, Any], message: TaskEvents) -> bool:
        """Write what a user endpoint told. `who`: the monitor's facts about it. False: kept for later."""
        uid = int(who["uid"])
        lines = [
            {
                "event": f"task-{event.state}",
                **who,
                "task": event.task_id,
                "function": event.function_id,
                "at": round(event.at, 3),
                **({"outcome": event.code or "success"} if event.state == "ended" else {}),
            }
            for event in message.events
        ]
        if message.dropped:
            lines.insert(0, {"event": "task-events-dropped", **who, "count": message.dropped})
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
