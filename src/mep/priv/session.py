"""The session process: stands between monitor and user process where the monitor cannot hold the latter directly.

With PAM it holds the session open for as long as the user process lives, and closes it after. Where there is no
cgroup v2 it is the child-subreaper of everything the user process starts, so that what escapes by double fork
comes back to it and is killed. It ends when the user process ends, when the monitor lets go of the leash (or
dies), or by SIGTERM (as logind ends a session), and only after all the others are gone.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Iterable

import pyprctl

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv import cgroup, clone, fds

_EMPTY_S = 5.0
_AFTER_S = 10


def hold(
    run: Callable[[], int],
    *,
    leash_fd: int,
    cgroup_fd: int | None,
    on_spawned: Callable[[int], None],
    after: Callable[[], object] | None = None,
    keep_fds: Iterable[int] = (),
) -> int:
    """Fork `run`, wait for its end or for the leash to be let go, kill all that is left, then do `after`.

    Ends this process in the way the child ended. `on_spawned` hears the child's pid. `cgroup_fd`: where the child
    is cloned into; without one, this process is the subreaper. `keep_fds`: what `after` needs.
    HostError(SPAWN_FAILED). Privilege: that of the processes to kill (root, or the same user).
    """
    if cgroup_fd is None:
        pyprctl.set_child_subreaper(True)
    try:
        child = clone.spawn(run, cgroup_fd=cgroup_fd)
    except OSError as error:
        _do_last(after)
        raise HostError(
            Code.SPAWN_FAILED, "The endpoint could not start your process.", admin_text=f"fork: {error}"
        ) from None
    on_spawned(child.pid)
    fds.close_all_except([0, 1, 2, leash_fd, child.pidfd, -1 if cgroup_fd is None else cgroup_fd, *keep_fds])
    poll = select.poll()
    poll.register(_watch_sigterm(), select.POLLIN)
    poll.register(child.pidfd, select.POLLIN)
    poll.register(leash_fd, select.POLLIN | select.POLLHUP)
    poll.poll()
    ended = clone.reap(child.pidfd)
    if ended is None:
        clone.kill(child.pidfd)
        ended = clone.reap(child.pidfd, block=True)
    assert ended is not None
    if cgroup_fd is None:
        sweep()
    else:
        _empty(cgroup_fd)
    _say_end(leash_fd, ended)
    _do_last(after)
    return end_as(ended)


def _watch_sigterm() -> int:
    """Return an fd that is readable after SIGTERM. All other signals but SIGALRM are blocked. Privilege: none."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writable)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGALRM, signal.SIGTERM})
    return readable


def _empty(cgroup_fd: int) -> None:
    try:
        cgroup.empty_fd(cgroup_fd, _EMPTY_S)
    except OSError:
        pass  # the guard of a killed monitor was quicker, and has removed it


def _say_end(leash_fd: int, ended: clone.Ended) -> None:
    """Tell how the user process ended, in case that we cannot end in the same way: see `heard_end`."""
    try:
        os.write(leash_fd, b"%d %d" % (ended.status, ended.signal))
    except OSError:
        pass  # nobody holds the leash any more


def heard_end(leash: socket.socket) -> clone.Ended | None:
    """Return what the session process said on its leash of the user process's end; None: nothing.

    Privilege: none.
    """
    try:
        status, number = leash.recv(100, socket.MSG_DONTWAIT).split()
        return clone.Ended(int(status), int(number))
    except (OSError, ValueError):
        return None


def _do_last(after: Callable[[], object] | None) -> None:
    if after is not None:
        signal.alarm(_AFTER_S)  # its default action: a PAM module that hangs may even ignore what interrupts it
        after()
        signal.alarm(0)


def sweep() -> None:
    """Kill and reap every descendant of this process, also those that come back to it. Privilege: see `hold`."""
    while True:
        for pid in descendants(os.getpid()):
            _kill_descendant(pid)
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _kill_descendant(pid: int) -> None:
    """Kill `pid` if it still is below us: its number may be somebody else's by now. Privilege: see `hold`."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # asked after the pidfd is there: if the answer is about another process, the pidfd's own has ended
        if _is_below_us(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(pidfd)


def _is_below_us(pid: int) -> bool:
    us, above = os.getpid(), _parent_of(pid)
    while above not in (None, 0, 1, us):
        above = _parent_of(above)
    return above == us


def descendants(ancestor: int) -> list[int]:
    """Return the pids of all living descendants, from one look at /proc. Privilege: none."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            parent = _parent_of(int(name))
            if parent is not None:
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    todo = list(children.get(ancestor, ()))
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo.extend(children.get(pid, ()))
    return found


def _parent_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def end_as(ended: clone.Ended) -> int:
    """End as another process did: die by the same signal, or return its status. Privilege: none."""
    if ended.signal:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if ended.signal == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), ended.signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [ended.signal])
        return 128 + ended.signal
    return ended.status
