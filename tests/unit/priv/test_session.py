"""The session process as subreaper: whatever its child leaves is gone before it ends, as its child ended."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from mep.priv import clone, session


def run_session(run: object, leash: socket.socket, closed: list[str] | None = None) -> clone.Child:
    def after() -> None:
        Path(closed[0]).touch() if closed else None

    return clone.spawn(
        lambda: session.hold(
            run,  # type: ignore[arg-type] # some do not return
            leash_fd=leash.fileno(),
            cgroup_fd=None,
            on_spawned=lambda pid: None,
            after=after,
        )
    )


def leave_daemons(report: int) -> int:
    """Three generations: a child, one in a session of its own, a double-forked one."""
    for depth in range(3):
        if os.fork() == 0:
            os.setsid()
            for _ in range(depth):
                if os.fork():
                    os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(report, b"%d\n" % os.getpid())
            time.sleep(1000)
    return 5


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def read_pids(readable: int, count: int) -> list[int]:
    pids: list[int] = []
    while len(pids) < count:
        pids += [int(line) for line in os.read(readable, 1000).split()]
    return pids


def test_what_the_child_leaves_is_gone_when_the_session_ends(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    readable, writable = os.pipe()

    def leave() -> int:
        status = leave_daemons(writable)
        time.sleep(0.3)
        return status

    child = run_session(leave, theirs, [str(tmp_path / "closed")])
    pids = read_pids(readable, 3)
    found = clone.reap(child.pidfd, block=True)
    assert found is not None
    assert found.status == 5
    assert not any(is_alive(pid) for pid in pids)
    assert (tmp_path / "closed").exists()
    for fd in (readable, writable, child.pidfd):
        os.close(fd)
    ours.close()
    theirs.close()


def test_letting_go_of_the_leash_ends_everybody() -> None:
    ours, theirs = socket.socketpair()
    readable, writable = os.pipe()

    def leave() -> int:
        ours.close()
        leave_daemons(writable)
        time.sleep(1000)
        return 0

    child = run_session(leave, theirs)
    pids = read_pids(readable, 3)
    theirs.close()
    # the session process holds a copy of our end until it closes what is not its own
    deadline = time.monotonic() + 5
    while len(os.listdir(f"/proc/{child.pid}/fd")) > 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    ours.close()
    found = clone.reap(child.pidfd, block=True)
    assert found is not None
    assert found.signal == signal.SIGKILL
    assert not any(is_alive(pid) for pid in pids)
    for fd in (readable, writable, child.pidfd):
        os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU, signal.SIGTERM])
def test_it_ends_as_its_child_ended(number: signal.Signals) -> None:
    ours, theirs = socket.socketpair()
    child = run_session(lambda: os.kill(os.getpid(), number), theirs)
    found = clone.reap(child.pidfd, block=True)
    assert found is not None
    assert found.signal == number
    os.close(child.pidfd)
    ours.close()
    theirs.close()


def test_a_number_that_is_somebody_elses_by_now_is_not_killed() -> None:
    def wait() -> int:
        time.sleep(1000)
        return 0

    stranger = clone.spawn(wait)

    def be_a_session() -> int:
        mine = clone.spawn(wait)
        session._kill_descendant(stranger.pid)  # as if it had got the number of a descendant that ended
        session._kill_descendant(mine.pid)
        ended = clone.reap(mine.pidfd, block=True)
        return 0 if ended is not None and ended.signal == signal.SIGKILL else 1

    child = clone.spawn(be_a_session)
    assert clone.reap(child.pidfd, block=True) == clone.Ended(0, 0)
    assert clone.reap(stranger.pidfd) is None
    clone.kill(stranger.pidfd)
    clone.reap(stranger.pidfd, block=True)
    for pidfd in (child.pidfd, stranger.pidfd):
        os.close(pidfd)
