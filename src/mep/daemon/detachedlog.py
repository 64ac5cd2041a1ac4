"""The log of a detached daemon: a file, of which nobody can make more than so much."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from mep.daemon.audit import make_room
from mep.priv import fds

_MAX_BYTES: Final = 16 * 1024 * 1024
_KEEP: Final = 4


class DetachedLog(logging.Handler):
    """Writes nothing itself: with each line that the daemon logs, it looks how large the file has become.

    What other processes still write into the older file is bounded by their ends. Privilege: write access there.
    """

    def __init__(self, path: Path, *, max_bytes: int = _MAX_BYTES, keep: int = _KEEP) -> None:
        super().__init__()
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        self._pid = 0

    def open(self) -> int:
        """Return an fd that appends to the file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def attach(self) -> None:
        """From now on, in this process: stdout and stderr are the file."""
        self._pid = os.getpid()
        logging.getLogger().addHandler(self)

    def emit(self, _record: logging.LogRecord) -> None:
        """Begin the file anew if it is full; if that cannot be, it grows."""
        try:
            if os.getpid() == self._pid and os.fstat(2).st_size >= self._max_bytes:
                self._begin_anew()
        except OSError:
            pass  # there is nowhere to tell it

    def _begin_anew(self) -> None:
        make_room(self._path, self._keep)
        fd = self.open()
        fds.say_into(fd)
        os.close(fd)
