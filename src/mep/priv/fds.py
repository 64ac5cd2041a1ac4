"""File descriptors of a process that was forked from a larger one."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

_MOST = 1 << 20  # beyond any table a daemon has; close_range(2) skips what is not open
_SPARE = 64  # kept for what ends processes, and for what comes with messages
_inherited_soft: int | None = None  # the limit that `raise_limit` raised


def raise_limit() -> None:
    """Let this process have as many fds as it may; its children lower it again. Privilege: none."""
    global _inherited_soft
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        _inherited_soft = soft


def has_room() -> bool:
    """Tell whether the table has room for what may be done without. Privilege: none."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # what is below is taken
    except OSError:
        return False
    os.close(lowest)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft == resource.RLIM_INFINITY or lowest < soft - _SPARE


def close_all_except(keep: Iterable[int]) -> None:
    """Close every fd that is not in `keep`, and have the limit from before `raise_limit`. Privilege: none."""
    low = 0
    for fd in sorted({fd for fd in keep if fd >= 0}):
        if low < fd:  # closerange(0, 0) closes everything: it takes the end -1 for unsigned
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, _MOST)
    _lower_limit()


def _lower_limit() -> None:
    """Once: whoever sets it later, as PAM may, means it. Privilege: none."""
    global _inherited_soft
    soft, _inherited_soft = _inherited_soft, None
    if soft is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
