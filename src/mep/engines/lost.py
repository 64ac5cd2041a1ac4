"""Words for the death of a worker: what killed it, as far as the kernel tells."""

from __future__ import annotations

import os
import signal
from functools import cache

from mep.base.codes import Code
from mep.base.errors import TaskError
from mep.base.sizes import killed_by_memory

_CGROUP2_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


class MemoryEvents:
    """Tells whether the kernel killed something in our cgroup for lack of memory since the last look."""

    def __init__(self) -> None:
        self._path, self._at_limit = _events_file()
        self._seen = self._counts()

    def killed(self) -> str:
        """Return why there was a kill since the last call, or "" if there was none."""
        before, self._seen = self._seen, self._counts()
        if self._seen.get("oom_kill", 0) <= before.get("oom_kill", 0):
            return ""
        ours = self._seen.get(self._at_limit, 0) > before.get(self._at_limit, 0)
        return killed_by_memory(self._limit_bytes() if ours else None)

    def _limit_bytes(self) -> int | None:
        """Return the memory limit of our cgroup, None if there is none."""
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                with open(os.path.join(os.path.dirname(self._path), name), encoding="ascii") as file:
                    text = file.read().strip()
            except OSError:
                continue
            return int(text) if text.isdigit() and int(text) < 1 << 60 else None
        return None

    def _counts(self) -> dict[str, int]:
        try:
            with open(self._path, encoding="ascii") as lines:
                return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}
        except (OSError, ValueError):
            return {}


def _events_file() -> tuple[str, str]:
    """Return the file that counts what happened to our cgroup for lack of memory, and the name of the counter that
    says that its own limit was met (version 1 has none)."""
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
                    return events, "oom"
        elif "memory" in controllers.split(","):
            return f"/sys/fs/cgroup/memory{path}/memory.oom_control", "oom_kill"
    return "", ""


def how_it_ended(status: int, *, by_memory: str = "") -> str:
    """Return the end of a sentence that begins with "The worker ...". `status` as of os.waitstatus_to_exitcode.

    `by_memory`: why the kernel killed it, if that was for lack of memory.
    """
    if status >= 0:
        return f"exited with status {status} before the task returned (os._exit, or a crash in native code)"
    if by_memory:
        return f"was {by_memory}"
    try:
        name = f"{signal.Signals(-status).name}, {signal.strsignal(-status)}"
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-status} ({name})"


def worker_lost(text: str, *, by_memory: str = "") -> tuple[str, str]:
    """Return (code, full text) of a task whose worker died."""
    code = Code.LIMIT_EXCEEDED if by_memory else Code.WORKER_LOST
    return code.value, TaskError(code, text).for_user()


@cache
def give_way() -> None:
    """Let the kernel, when memory runs out, end this worker rather than the user endpoint; what it starts, too.

    Once in a process is enough.
    """
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("500")
    except OSError:
        pass  # it may not matter: the largest goes first
