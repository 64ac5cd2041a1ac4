"""The gate's log lines, on their way into the endpoint's log.

The gate may have been taken over, so it writes into a pipe and not into the log: each of its lines is marked as
its own, cut, made printable, and counted. Who says too much loses its own lines, how many is said, and nobody
waits.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Final

from mep.daemon.loop import Loop

log = logging.getLogger(__name__)

ROLE: Final = "gate"
MOST_CHARS: Final = 4000  # of a line
#: A line costs 1 and another 1 for each 256 bytes. So much in a row, and so much a second from then on: some
#: 200 MB a day at worst.
BURST: Final = 300.0
PER_S: Final = 10.0
_BYTES_PER_COST: Final = 256
_READ_BYTES: Final = 65536
_READS_PER_S: Final = 8  # a flood is not even read beyond that: it waits in the pipe, with who writes it
_PRIORITY: Final = re.compile(rb"<([0-7])>")
_LEVELS: Final = (*[logging.CRITICAL] * 3, logging.ERROR, logging.WARNING, *[logging.INFO] * 2, logging.DEBUG)


def make_pipe() -> tuple[int, int]:
    """Return what is read from and what is written to. Neither blocks, whoever holds them. Privilege: none."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


class GateVoice:
    """Reads one gate's pipe, and closes it. Lines come with their priority as in sd-daemon(3), or are warnings."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop, self._fd = loop, fd
        self._rest = b""
        self._skipping = False  # the rest of a line that was too long
        self._over = False
        self._allowance, self._allowance_at = BURST, time.monotonic()
        self._reads, self._lost = 0, 0
        self._loop.watch(fd, self._on_readable)

    def close(self) -> None:
        """The gate is gone: take its last lines, as far as they are there. Others may still hold the pipe."""
        if self._fd < 0:
            return
        self._read()
        if self._rest and not self._skipping:
            self._line(self._rest)
        self._tell_lost()
        self._loop.unwatch(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _on_readable(self) -> None:
        if not self._reads:
            self._loop.call_later(1.0, self._next_second)
        self._reads += 1
        self._read()
        if self._over or self._reads >= _READS_PER_S:
            self._loop.unwatch(self._fd)

    def _next_second(self) -> None:
        self._reads = 0
        self._tell_lost()
        if self._fd >= 0 and not self._over:
            self._loop.watch(self._fd, self._on_readable)

    def _read(self) -> None:
        """Take what is there."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        self._over = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            else:
                self._line(line)
        if len(self._rest) > MOST_CHARS:
            if not self._skipping:
                self._line(self._rest)
            self._rest, self._skipping = b"", True

    def _line(self, line: bytes) -> None:
        cost = 1.0 + len(line[:MOST_CHARS]) // _BYTES_PER_COST
        if not self._may_say(cost):
            self._lost += 1
            return
        found = _PRIORITY.match(line)
        level = _LEVELS[int(found[1])] if found else logging.WARNING
        text = line[found.end() if found else 0 :][:MOST_CHARS].decode(errors="backslashreplace")
        log.log(level, "%s", text, extra={"role": ROLE})

    def _may_say(self, cost: float) -> bool:
        now = time.monotonic()
        self._allowance = min(BURST, self._allowance + (now - self._allowance_at) * PER_S)
        self._allowance_at = now
        if self._allowance < cost:
            return False
        self._allowance -= cost
        return True

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("the gate says too much: %d of its lines are not in this log", lost)
