"""A time limit for a call in this thread (GC_TASK_TIMEOUT)."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TaskTimeout(Exception):
    """The task ran longer than the endpoint's GC_TASK_TIMEOUT."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raise TaskTimeout inside the block after `limit_s` seconds; 0 means no limit.

    In a main thread by a timer signal, which also ends a blocking system call; elsewhere by an exception that
    Python delivers at the next bytecode.
    """
    if limit_s <= 0:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _by_signal(limit_s):
            yield
    else:
        with _by_thread(limit_s):
            yield


@contextmanager
def _by_signal(limit_s: float) -> Iterator[None]:
    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TaskTimeout(f"Task exceeded its time limit of {limit_s} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _by_thread(limit_s: float) -> Iterator[None]:
    ident = ctypes.c_ulong(threading.get_ident())
    lock, state = threading.Lock(), {"over": False}

    def expire() -> None:
        with lock:
            if not state["over"]:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(TaskTimeout))

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            state["over"] = True
        timer.cancel()
