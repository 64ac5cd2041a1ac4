"""The first steps of a process that an engine forks: keep nothing of the user endpoint, and die with it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal

from mep.base.log import log_only_to

_PR_SET_PDEATHSIG = 1
_DEFAULTS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


def settle_child(*, parent: int, keep_fd: int | None = None) -> None:
    """Leave loop, signal handlers, log and descriptors of the forking process behind; keep 0, 1, 2 and `keep_fd`.

    The process group is its own: a function that signals its group must not hit its neighbours. The process ends
    with the thread that forked it, which must therefore be one that stays.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in _DEFAULTS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    asyncio._set_running_loop(None)  # a function may want a loop of its own
    asyncio.set_event_loop(None)
    shown = logging.StreamHandler()
    shown.setLevel(logging.WARNING)  # as in any program that configures no logging
    log_only_to(shown, logging.WARNING)
    most = os.sysconf("SC_OPEN_MAX")
    if keep_fd is None or keep_fd < 3:
        os.closerange(3, most)
    else:
        os.closerange(3, keep_fd)
        os.closerange(keep_fd + 1, most)
