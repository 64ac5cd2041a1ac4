"""Starts Parsl's interchange by a fork of this process, which has imported Parsl already: 0.05 s instead of 0.7 s.

The fork happens early, while this process has one thread and no ZeroMQ context; the child waits for its
configuration as the interchange program does on its stdin. Should a later Parsl start its interchange in another
way, that way is taken and the child ends.
"""

from __future__ import annotations

import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import parsl.executors.high_throughput.executor as executor_module
import parsl.executors.high_throughput.interchange  # noqa: F401 - imported here so that the child need not
from parsl.executors import HighThroughputExecutor, MPIExecutor

from mep.engines.child import settle_child

_INTERCHANGE = "parsl.executors.high_throughput.interchange"


class ForkedInterchange:
    """What Parsl uses of a subprocess.Popen, for a forked child that becomes the interchange."""

    def __init__(self) -> None:
        assert threading.active_count() == 1, "a process that forks has one thread"
        reads, writes = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be_interchange(reads, parent)
        os.close(reads)
        self.stdin: BinaryIO = os.fdopen(writes, "wb")
        self._pidfd = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._collect() if self._ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; subprocess.TimeoutExpired after `timeout` seconds."""
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired("interchange", timeout or 0.0)
        return self._collect()

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Make it end."""
        self._signal(signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> bool:
        return self.returncode is not None or bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def _collect(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._pidfd)
        return self.returncode

    def _signal(self, number: int) -> None:
        if self.returncode is None:
            signal.pidfd_send_signal(self._pidfd, number)


def _be_interchange(stdin_fd: int, parent: int) -> NoReturn:
    """In the child: keep stdin, stdout and stderr, and run the program."""
    status = 1
    try:
        os.dup2(stdin_fd, 0)
        settle_child(parent=parent)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it stays open
        del sys.modules[_INTERCHANGE]  # it runs as a program now
        runpy.run_module(_INTERCHANGE, run_name="__main__", alter_sys=True)
        status = 0
    except EOFError:
        status = 0  # no configuration came: nobody needed us
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - it goes no further than this process
        traceback.print_exc()
    finally:
        os._exit(status)


class _Subprocess:
    """Stands for the module `subprocess` while Parsl starts its interchange."""

    def __init__(self, ready: ForkedInterchange) -> None:
        self._ready: ForkedInterchange | None = ready

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, *args: Any, **kwargs: Any) -> Any:
        ready, self._ready = self._ready, None
        return ready if ready is not None else subprocess.Popen(*args, **kwargs)  # noqa: S603 - Parsl's own call


@contextmanager
def _instead_of_exec(ready: ForkedInterchange | None) -> Iterator[None]:
    if ready is None or getattr(executor_module, "subprocess", None) is not subprocess:
        yield
        return
    setattr(executor_module, "subprocess", _Subprocess(ready))  # noqa: B010 - it is not among its typed names
    try:
        yield
    finally:
        setattr(executor_module, "subprocess", subprocess)  # noqa: B010


class _QuickStart:
    """Mixed into Parsl's executors. Call `fork_interchange` while the process has one thread."""

    _ready: ForkedInterchange | None = None

    def fork_interchange(self) -> None:
        """Fork the child that becomes the interchange at `start`."""
        self._ready = ForkedInterchange()

    def _start_local_interchange_process(self) -> None:
        with _instead_of_exec(self._ready):
            super()._start_local_interchange_process()  # type: ignore[misc] # of the executor this is mixed into
        if self._ready is not None and getattr(self, "interchange_proc", None) is not self._ready:
            self._ready.stdin.close()
            self._ready.wait(5.0)


class QuickHighThroughputExecutor(_QuickStart, HighThroughputExecutor):
    """Parsl's HighThroughputExecutor with a forked interchange."""


class QuickMPIExecutor(_QuickStart, MPIExecutor):
    """Parsl's MPIExecutor with a forked interchange."""
