"""Where processes are kept: what a gate leaves there ends with it, and the guard is always there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import setproctitle

from mep.daemon.gatesettings import GateSettings
from mep.daemon.loop import Loop
from mep.daemon.shelter import Shelter
from mep.priv import cgroup, clone, guard
from support.daemonrig import daemon, hand_over
from support.remote import titled
from support.wait import until

pytestmark = pytest.mark.timeout(60)


def leave_somebody(settings: GateSettings, monitor_fd: int) -> int:
    """As a gate that was taken over: what it forks leaves its session and holds the socket."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        setproctitle.setproctitle(f"left by a gate: {os.getppid()}")
        while True:
            signal.pause()
    return hand_over(settings, monitor_fd)


@pytest.mark.parametrize("ends", ["the gate", "the endpoint"])
def test_what_a_gate_leaves_ends_with_it(tmp_path: Path, ends: str) -> None:
    with daemon(tmp_path, run_gate=leave_somebody) as rig:
        [left] = until(lambda: titled("left by a gate"), "the gate has forked")
        if ends == "the gate":
            rig.lose_gate()
            until(lambda: left not in titled("left by a gate"), "what the first gate left is gone")
        assert rig.stop().clean
        assert titled("left by a gate") == []


@pytest.fixture
def shelter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelter]:
    """One of this process's own, which stays in its cgroup."""
    monkeypatch.setattr(cgroup.Tree, "enable_controllers", lambda _self: frozenset())
    state = SimpleNamespace(previous_cgroup=lambda: None, remember_cgroup=lambda _path: None)
    made = Shelter(Loop(), cast(Any, state), name="sheltered", unique=f"test {os.getpid()}")
    yield made
    if made._tree is not None and made._tree.root.exists():
        made.close()


def test_what_outlives_the_gate_does_not_outlive_a_clean_end(shelter: Shelter) -> None:
    """The last gate is killed where it does not end in time, and the endpoint ends at once."""
    cgroup_fd = shelter.gate_cgroup_fd()
    assert shelter._gate is not None
    folder = shelter._gate.path
    pids = shelter._gate.pids

    def leave() -> int:
        if os.fork() == 0:
            os.setsid()
            signal.pause()
        return 0

    child = clone.spawn(leave, cgroup_fd=cgroup_fd)
    clone.reap(child.pidfd, block=True)
    os.close(child.pidfd)
    assert pids()
    shelter.close()
    assert not folder.parent.exists()


def test_a_guard_whose_process_is_refused_comes_all_the_same(
    shelter: Shelter, monkeypatch: pytest.MonkeyPatch
) -> None:
    [before] = until(lambda: titled("mep guard: sheltered"), "it has its name")
    refused: list[int] = []

    def refuse(*_: object, **__: object) -> clone.Child:
        refused.append(1)
        monkeypatch.undo()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(guard, "start", refuse)
    os.kill(before, signal.SIGKILL)
    for _ in range(100):
        shelter._loop.step(0.1)
        if titled("mep guard: sheltered") not in ([], [before]):
            break
    assert refused
    assert titled("mep guard: sheltered") != []
