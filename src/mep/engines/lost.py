"""Words for the death of a worker: what killed it, as far as the kernel tells."""

from __future__ import annotations

import os
import signal

from mep.base.codes import Code
from mep.base.errors import TaskError

_CGROUP2_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class MemoryEvents:
    """Tells whether the kernel killed something in our cgroup for lack of memory since the last look."""

    def __init__(self) -> None:
        self._path, self._key = _events_file()
        self._seen = self._count()

    def killed(self) -> bool:
        """Tell whether there was a kill since the last call."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def limit_bytes(self) -> int | None:
        """Return the memory limit of our cgroup, None if there is none."""
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                with open(os.path.join(os.path.dirname(self._path), name), encoding="ascii") as file:
                    text = file.read().strip()
            except OSError:
                continue
            return int(text) if text.isdigit() and int(text) < 1 << 60 else None
        return None

    def _count(self) -> int:
        try:
            with open(self._path, encoding="ascii") as lines:
                for line in lines:
                    key, _, value = line.partition(" ")
                    if key == self._key:
                        return int(value)
        except (OSError, ValueError):
            pass
        return 0


def _events_file() -> tuple[str, str]:
    """Return the file that counts out-of-memory kills of our cgroup, and the counter's name in it."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return "", ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for mount in _CGROUP2_MOUNTS:
                events = f"{mount}{path}/memory.events"
                if os.path.exists(events):
                    return events, "oom_kill"
        elif "memory" in controllers.split(","):
            return f"/sys/fs/cgroup/memory{path}/memory.oom_control", "oom_kill"
    return "", ""


def how_it_ended(status: int, *, by_memory: bool = False, limit_bytes: int | None = None) -> str:
    """Return the end of a sentence that begins with "The worker ...". `status` as of os.waitstatus_to_exitcode.

    `by_memory`: the kernel killed it for lack of memory; `limit_bytes`: of the cgroup, if there is a limit.
    """
    if status >= 0:
        return f"exited with status {status} before the task returned (os._exit, or a crash in native code)"
    try:
        name = f"{signal.Signals(-status).name}, {signal.strsignal(-status)}"
    except ValueError:
        name = "unknown"
    text = f"was killed by signal {-status} ({name})"
    if by_memory:
        text += ": out of memory" + (f", the limit is {limit_bytes / 2**30:.1f} GiB" if limit_bytes else "")
    return text


def worker_lost(text: str) -> tuple[str, str]:
    """Return (code, full text) of a task whose worker died."""
    return Code.WORKER_LOST.value, TaskError(Code.WORKER_LOST, text).for_user()
