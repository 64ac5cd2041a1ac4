"""What a test must not leave behind: processes, threads, a changed environment or folder."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Children that a fixture of a wider scope ends, although a test (re)started them.
expected: set[int] = set()

_GRACE_S = 3.0  # how long what is ending already may take


def children() -> set[int]:
    """Return the pids of this process's children, zombies included, without Python's own resource tracker."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            found |= {int(pid) for pid in listed.read_text().split()}
        except OSError:  # a thread that has ended meanwhile
            continue
    return found - expected - {getattr(resource_tracker._resource_tracker, "_pid", None) or -1}


def title_of(pid: int) -> str:
    """Return the command line of a process, for a message."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "gone"


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if the body leaves a child process, a thread, another folder or another environment.

    Whatever it left is cleared away, so that the next test begins clean.
    """
    folder, environment = os.getcwd(), dict(os.environ)
    processes, threads = children(), set(threading.enumerate())
    yield
    trouble = []
    if _restore(folder, environment):
        trouble.append("a changed environment or working folder")
    if left := _settle(lambda: {t for t in threading.enumerate() if t.is_alive()} - threads):
        trouble.append(f"threads {sorted(t.name for t in left)}")
    if pids := _settle(lambda: children() - processes):
        trouble.append(f"processes {[(pid, title_of(pid)) for pid in sorted(pids)]}")
        for pid in pids:
            _end(pid)
    assert not trouble, f"the test left {' and '.join(trouble)}"


def _restore(folder: str, environment: dict[str, str]) -> bool:
    changed = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} != {
        k: v for k, v in environment.items() if k != "PYTEST_CURRENT_TEST"
    }
    if changed:
        os.environ.clear()
        os.environ.update(environment)
    if os.getcwd() != folder:
        os.chdir(folder)
        changed = True
    return changed


def _settle(probe: Callable[[], set[T]]) -> set[T]:
    """Return what `probe` finds once it is empty or the grace is over."""
    end = time.monotonic() + _GRACE_S
    while (found := probe()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return
