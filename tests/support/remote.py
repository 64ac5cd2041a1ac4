"""Running functions through a real endpoint, and looking at what it started."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mep import Executor
from mep.base.codes import Code, next_step
from mep.sdk.errors import TaskExecutionFailed
from mep.serialize import PureSourceTextInspect, Serializer
from support.endpoint import Endpoint

WAIT_S = 30.0


def by_source(endpoint_id: str, **options: Any) -> Executor:
    """Functions go by their source: the endpoint's interpreter does not have the test's modules."""
    return Executor(endpoint_id, serializer=Serializer(PureSourceTextInspect), **options)


def process_id() -> int:
    """Runs in the user endpoint: its pid."""
    import os

    return os.getpid()


def escape() -> list[int]:
    """Runs in the user endpoint: leave processes behind in every way there is; return their pids.

    A child, one in a session of its own, and a double-forked daemon that ignores signals and holds the standard
    streams and every fd it has inherited.
    """
    import os
    import signal
    import time

    def sleeper(report: int) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.write(report, b"%d\n" % os.getpid())
        while True:
            time.sleep(1000)

    readable, writable = os.pipe()
    if os.fork() == 0:
        sleeper(writable)
    if os.fork() == 0:
        os.setsid()
        sleeper(writable)
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            sleeper(writable)
        os._exit(0)
    os.waitpid(middle, 0)
    pids: list[int] = []
    while len(pids) < 3:
        pids += [int(line) for line in os.read(readable, 1000).split()]
    return pids


def refusal(site: Endpoint, **options: Any) -> str:
    """Submit once; return the error's text."""
    with by_source(site.id, **options) as executor, pytest.raises(TaskExecutionFailed) as caught:
        executor.submit(process_id).result(WAIT_S)
    return str(caught.value)


def assert_refused(text: str, code: Code) -> None:
    """The code comes first, and the next step is said once."""
    assert text.startswith(code.value), text
    assert text.count(next_step(code).user) == 1, text


def alive(pids: list[int]) -> list[int]:
    """Return those that are there and are no zombies."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if state != b"Z":
            found.append(pid)
    return found


def processes_of(uid: int) -> list[int]:
    """Return the pids of an account's processes."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and Path("/proc", entry).stat().st_uid == uid:
                found.append(int(entry))
        except OSError:
            continue
    return alive(found)


def titled(text: str) -> list[int]:
    """Return the pids of the processes whose title holds `text`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            title = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in title and alive([int(entry)]):
            found.append(int(entry))
    return found


def kill_9(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
