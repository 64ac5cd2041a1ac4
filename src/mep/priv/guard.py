"""The guard: a tiny process that outlives the monitor by a moment, to kill what the monitor can no longer kill."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import setproctitle

from mep.base.exits import Exit
from mep.priv import cgroup, clone, fds

_GATE_GOODBYE_S = 1.0  # the gate tells the relay what happened; then it ends, willing or not


def start(tree: cgroup.Tree, *, label: str) -> clone.Child:
    """Fork the guard of this process. Privilege: write access to the tree's cgroups.

    It waits for the end of its parent (by pidfd, no polling), kills every user process below `tree`, a moment
    later the rest of the tree, removes it, and exits. Nothing but SIGKILL stops it.
    """
    pidfd = os.pidfd_open(os.getpid())
    parent = os.getpid()
    try:
        return clone.spawn(lambda: _guard(pidfd, parent, tree.root, label))
    finally:
        os.close(pidfd)


def _guard(pidfd: int, parent: int, root: Path, label: str) -> int:
    """Wait and kill. Privilege: as `start`."""
    setproctitle.setproctitle(f"mep guard: {label}")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.chdir("/")
    os.setsid()
    fds.null_standard_streams()
    fds.close_all_except([0, 1, 2, pidfd])
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if os.getppid() == parent:
        poll.poll()
    for box in _children(root):
        if box.name.startswith("uep-"):
            # a session process may close its session first
            inner = box / "user"
            cgroup.kill_tree(inner if inner.is_dir() else box)
    cgroup.wait_empty(root, _GATE_GOODBYE_S)
    cgroup.kill_and_remove(root)
    return Exit.OK


def _children(root: Path) -> list[Path]:
    try:
        return [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError:
        return []
