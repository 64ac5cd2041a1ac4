"""Forking: from a process with one thread only, into a fresh cgroup where there is one, and never back."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.exits import Exit
from mep.priv import syscalls


@dataclass(frozen=True)
class Child:
    """A child process. `pidfd` becomes readable when it ends; its owner closes it."""

    pid: int
    pidfd: int


@dataclass(frozen=True)
class Ended:
    """How a process ended: `status` by exit, or `signal` (then status is 0)."""

    status: int
    signal: int

    @property
    def clean(self) -> bool:
        return self.status == 0 and self.signal == 0

    def __str__(self) -> str:
        if self.signal:
            return f"killed by signal {self.signal} ({signal_name(self.signal)})"
        return f"exit status {self.status}"


def signal_name(number: int) -> str:
    """Return SIGKILL for 9. Privilege: none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def assert_single_threaded() -> None:
    """Raise HostError(INTERNAL) if this process has more than one thread. Privilege: none.

    A fork copies the locks that other threads hold, and never their owners: the child would hang some day.
    """
    tasks = len(os.listdir("/proc/self/task"))
    if threading.active_count() != 1 or tasks != 1:
        raise HostError(Code.INTERNAL, f"This process must not fork: it has {tasks} threads.")


def fork_into_cgroup(cgroup_fd: int | None) -> Child:
    """Fork; the child has `pid` 0 and is already in the cgroup behind `cgroup_fd` (a directory's fd).

    Cloning into a cgroup costs what a fork costs; joining one afterwards waits for the kernel for 10 ms.
    OSError as the kernel says. Privilege: write access to the cgroup (root, or a delegated subtree).
    """
    assert_single_threaded()
    if cgroup_fd is None:
        pid = os.fork()
        return Child(pid, _open_pidfd(pid) if pid else -1)
    syscalls.before_fork()
    try:
        pid, pidfd = syscalls.clone3(
            flags=syscalls.CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup_fd=cgroup_fd
        )
    except OSError:
        syscalls.after_fork_parent()
        raise
    if pid == 0:
        syscalls.after_fork_child()
        return Child(0, -1)
    syscalls.after_fork_parent()
    return Child(pid, pidfd)


def _open_pidfd(pid: int) -> int:
    """Return the pidfd of our child `pid`, or end it: nobody would follow it. Privilege: none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def spawn(run: Callable[[], int], *, cgroup_fd: int | None = None) -> Child:
    """Fork a child that runs `run` and exits with what it returns; never returns in the child.

    Signals are blocked over the fork and have their default action in the child. Privilege: see
    `fork_into_cgroup`; the child has its parent's.
    """
    everything = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    try:
        child = fork_into_cgroup(cgroup_fd)
        if child.pid:
            return child
        _be_the_child(run)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise AssertionError("a forked child never returns")


def _be_the_child(run: Callable[[], int]) -> None:
    """Run `run` and exit, whatever happens. Privilege: none."""
    status: int = Exit.SOFTWARE
    try:
        default_signals()
        status = run()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else Exit.FAILED
    except BaseException:  # noqa: BLE001 - nothing may climb into the frames of the parent's code
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
            sys.stdout.flush()
        finally:
            os._exit(status)


def default_signals() -> None:
    """Forget the parent's handlers, wake-up fd and mask. SIGPIPE stays ignored, as in every Python program.

    Privilege: none.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def reap(pidfd: int, *, block: bool = False) -> Ended | None:
    """Return how the child behind `pidfd` ended, or None if it lives. Privilege: be its parent."""
    flags = os.WEXITED | (0 if block else os.WNOHANG)
    try:
        result = os.waitid(os.P_PIDFD, pidfd, flags)
    except ChildProcessError:
        return Ended(0, int(signal.SIGKILL))  # somebody else reaped it: all that is sure is that it is gone
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Ended(result.si_status, 0)
    return Ended(0, result.si_status)


def kill(pidfd: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process behind `pidfd`, if it lives. Privilege: root, or the same user."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
