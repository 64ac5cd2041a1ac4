"""File descriptors of a process that was forked from a larger one."""

from __future__ import annotations

import os
from collections.abc import Iterable

_MOST = 1 << 20  # beyond any table a daemon has; close_range(2) skips what is not open


def close_all_except(keep: Iterable[int]) -> None:
    """Close every fd that is not in `keep`. Privilege: none."""
    low = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if low < fd:  # closerange(0, 0) closes everything: it takes the end -1 for unsigned
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, _MOST)


def null_standard_streams() -> None:
    """Connect 0, 1 and 2 to /dev/null. Privilege: none."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)


def say_into(fd: int) -> None:
    """Connect 1 and 2 to `fd`, and 0 to /dev/null. Privilege: none."""
    null_standard_streams()
    for stream in (1, 2):
        os.dup2(fd, stream)


def set_inheritable(fds: Iterable[int]) -> None:
    """Let `fds` survive an exec. Privilege: none."""
    for fd in fds:
        if fd >= 0:
            os.set_inheritable(fd, True)  # noqa: FBT003 - takes no keyword
