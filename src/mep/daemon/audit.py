"""The audit log: one line per decision and per state of a task, written by the monitor alone.

JSON lines, each with `time` (RFC 3339, UTC) and `event`; who and where (identity, uid, pid, user endpoint) come
from the monitor's own records, never from the user's process. A line that cannot be written is a reason to take no
more work: `healthy` turns False and stays so until a line was written again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mep.base.clock import SYSTEM_CLOCK, Clock
from mep.base.codes import Code
from mep.base.errors import HostError
from mep.host.trusted import check_directory

log = logging.getLogger(__name__)

_MAX_VALUE_CHARS = 2000


class AuditLog:
    """Appends to `path`, rotates at `max_bytes` into `path.1` ... `path.<keep>`. Privilege: write access there.

    Without a path it writes nothing and is always healthy. `on_change` hears when `healthy` changes.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        keep: int = 8,
        clock: Clock = SYSTEM_CLOCK,
        on_change: Callable[[bool, str], None] | None = None,
    ) -> None:
        self.path = path
        self.healthy = True
        self.why = ""
        self._max_bytes, self._keep = max_bytes, keep
        self._clock = clock
        self._on_change = on_change
        self._fd = -1

    def open(self, *, trusted: bool = False) -> None:
        """Open (again) and prove that a line can be written; HostError(AUDIT_UNWRITABLE) if not.

        `trusted`: HostError(CONFIG_UNTRUSTED) where others than root could take it away or put one in its place.
        """
        if self.path is None:
            return
        if trusted and self.path.parent.exists():
            check_directory(self.path.parent, shared=False)
        self.close()
        if not self.write("log-opened", pid=os.getpid()):
            raise HostError(
                Code.AUDIT_UNWRITABLE,
                "This endpoint takes no work at present.",
                admin_text=f"The audit log {self.path} cannot be written: {self.why}.",
            )

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, event: str, **fields: Any) -> bool:
        """Append one line; False (and unhealthy) if it is not wholly in the file."""
        return self.write_all([as_fields({"event": event, **fields})])

    def write_all(self, fields: Sequence[str]) -> bool:
        """Append a line each, with one write; False (and unhealthy): none of them is in the file.

        `fields`: what stands in the line's object after its time, as `as_fields` makes it.
        """
        if self.path is None or not fields:
            return True
        now = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="milliseconds")
        begin = f'{{"time": "{now}", '
        try:
            self._append("".join([f"{begin}{one}}}\n" for one in fields]).encode())
        except OSError as error:
            self.close()
            self._become(healthy=False, why=error.strerror or str(error))
            return False
        self._become(healthy=True, why="")
        return True

    def check(self) -> bool:
        """Return whether work may be taken; where the last write failed, try once more."""
        return self.healthy or self.write("log-resumed", pid=os.getpid())

    def _append(self, data: bytes) -> None:
        assert self.path is not None
        if self._fd >= 0 and not _is_at(self._fd, self.path):
            log.warning("audit log %s was removed or renamed by somebody else: it is begun anew", self.path)
            self.close()
        if self._fd < 0:
            self._fd = _open_own(self.path)
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._max_bytes:
            self._rotate()
            size = 0
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, size)  # half a line is worse than none
            raise OSError(28, "the disk is full")

    def _rotate(self) -> None:
        assert self.path is not None
        make_room(self.path, self._keep)
        self.close()
        self._fd = _open_own(self.path)

    def _become(self, *, healthy: bool, why: str) -> None:
        if healthy == self.healthy:
            return
        self.healthy, self.why = healthy, why
        if healthy:
            log.warning("audit log %s can be written again", self.path)
        else:
            log.error("AUDIT_UNWRITABLE: %s: %s; no more work is taken", self.path, why)
        if self._on_change is not None:
            self._on_change(healthy, why)


def make_room(path: Path, keep: int) -> None:
    """Rename `path` to `path.1`, that to `path.2`, and so on; the one that was `path.<keep>` is gone."""
    for number in range(keep, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if newer.exists():
            newer.replace(older)


def _open_own(path: Path) -> int:
    """Return an fd of the log, made if need be; OSError for what somebody else put in its place.

    Whoever owns the file could rewrite it, and opening a FIFO would wait for its reader.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    found = os.fstat(fd)
    a_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    if not (a_file or stat.S_ISCHR(found.st_mode)) or found.st_uid not in (0, os.geteuid()):
        os.close(fd)
        raise OSError(errno.EPERM, "it is not a file of this daemon alone")
    return fd


def _is_at(fd: int, path: Path) -> bool:
    """Tell whether `path` still is the open file: whoever rotates it from outside does not tell us."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def as_fields(fields: dict[str, Any]) -> str:
    """Return `fields` as they stand in a line: JSON in ASCII, long texts cut, no control character as it is."""
    return json.dumps({name: _capped(value) for name, value in fields.items()})[1:-1]


def _capped(value: Any) -> Any:
    """Keep a line within reason, whatever a field came from."""
    if isinstance(value, str) and len(value) > _MAX_VALUE_CHARS:
        return value[: _MAX_VALUE_CHARS - 1] + "…"
    return value
