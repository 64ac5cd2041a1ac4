"""Where user endpoints are kept on this host: cgroups with a guard, or session processes where there are none."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError, RefusedError
from mep.daemon.loop import Loop
from mep.daemon.state import State
from mep.priv import cgroup, clone, fds, guard
from mep.priv.box import Box
from mep.priv.limits import Limits, describe_limits

log = logging.getLogger(__name__)

_GUARD_AGAIN_S = 0.1
_GATE_EMPTY_S = 0.1  # who is killed needs milliseconds; the cgroup of one who does not go is removed at the end


class Shelter:
    """Chooses the way at the start, sweeps what a killed predecessor left, keeps the guard alive."""

    def __init__(self, loop: Loop, state: State, *, name: str, unique: str) -> None:
        """Fork the guard, early, while this process is small. Privilege: write access to the cgroups, if any."""
        self._loop, self._label = loop, name
        self._guard: clone.Child | None = None
        self._closing = False
        self._gate: cgroup.Cgroup | None = None
        self._gates = 0
        self._sweep_previous(state, cgroup.tree_name(name, unique))
        base = cgroup.find_base()
        tree = cgroup.Tree(base, name, unique) if base is not None else None
        if tree is not None:
            state.remember_cgroup(tree.root)
            for older in tree.older():
                _sweep(older)
        self._tree = tree if tree is not None and tree.usable() else None
        if self._tree is None:
            state.remember_cgroup(None)
        self.controllers: frozenset[str] = frozenset()
        if self._tree is not None:
            self.controllers = self._tree.enable_controllers()
            self._start_guard()

    def _sweep_previous(self, state: State, own_name: str) -> None:
        previous = state.previous_cgroup()
        if previous is None or not previous.is_dir():
            return
        if own_name not in (previous.name.rpartition(".")[0], previous.name):
            log.warning("%s is another endpoint's: this state folder seems to be a copy of its own", previous)
        else:
            _sweep(previous)

    def describe(self) -> str:
        """Return where user processes are kept and what enforces their limits, for the log."""
        where = f"cgroup {self._tree.root}" if self._tree else "session processes (no writable cgroup v2)"
        return f"{where}, limited by {describe_limits(self.controllers)}"

    def gate_cgroup_fd(self) -> int | None:
        """Return where the next gate is cloned into: the guard ends it there if it outlives the monitor.

        A fresh one for each: Linux may kill whatever is cloned into a cgroup that was killed before (seen with
        6.18). HostError(SPAWN_FAILED). Privilege: write access.
        """
        if self._tree is None:
            return None
        self.end_gate()
        self._gates += 1
        self._gate = self._tree.make(f"gate-{self._gates}")
        return self._gate.fd

    def end_gate(self) -> None:
        """Kill all that a gate has left. OSError: not now. Privilege: write access."""
        if self._gate is None:
            return
        self._gate.kill()
        cgroup.wait_empty(self._gate.path, _GATE_EMPTY_S)
        self._gate.remove()
        self._gate = None

    def make_box(self, name: str, *, session: bool, limits: Limits) -> Box:
        """Return a fresh box for one user endpoint. HostError(SPAWN_FAILED), RefusedError(ENDPOINT_FULL).

        `session`: a session process stands between us and it; so it does where there are no cgroups. Privilege:
        write access.
        """
        if not fds.has_room():
            raise RefusedError(
                Code.ENDPOINT_FULL,
                "As many user endpoints run here as this endpoint can have.",
                admin_text="The monitor has almost as many descriptors as it may: LimitNOFILE= of the service.",
            )
        cgroup = self._tree.make(name) if self._tree else None
        try:
            box = Box(cgroup, session=session or cgroup is None)
        except OSError as error:
            if cgroup is not None:
                cgroup.remove()
            raise HostError(
                Code.SPAWN_FAILED,
                "The endpoint could not make a container for your processes.",
                admin_text=f"Cannot make what is below the cgroup of {name}: {error}.",
            ) from None
        try:
            box.limit(limits)
        except OSError as error:
            box.remove()
            raise HostError(
                Code.SPAWN_FAILED,
                "The endpoint could not set the limits of your processes.",
                admin_text=f"A limit of config.yaml cannot be set: {error}.",
            ) from None
        return box

    def rlimits(self, limits: Limits) -> dict[int, int]:
        """Return what stands in for the limits that no controller enforces here."""
        return limits.rlimits(self.controllers)

    def _start_guard(self) -> None:
        if self._closing or self._tree is None:
            return
        if self._guard is not None:
            return
        self._guard = guard.start(self._tree, label=self._label)
        self._loop.watch(self._guard.pidfd, self._on_guard_exit)

    def _on_guard_exit(self) -> None:
        if self._guard is None or clone.reap(self._guard.pidfd) is None:
            return
        self._loop.unwatch(self._guard.pidfd)
        os.close(self._guard.pidfd)
        self._guard = None
        log.error("the guard is gone; it is started again")
        self._loop.call_later(_GUARD_AGAIN_S, self._restart_guard)

    def _restart_guard(self) -> None:
        self._loop.insist(self._start_guard, "the guard cannot be started")

    def close(self) -> None:
        """Kill whoever is left in the tree, remove it, and end the guard. Privilege: as at the start."""
        self._closing = True
        if self._tree is not None and not cgroup.kill_and_remove(self._tree.root):
            log.error("%s: something in it cannot be killed", self._tree.root)
        if self._guard is not None:  # until now it would have killed them, had we been killed
            self._loop.unwatch(self._guard.pidfd)
            clone.kill(self._guard.pidfd)
            clone.reap(self._guard.pidfd, block=True)


def _sweep(tree: Path) -> None:
    """End what another run of this endpoint left; its guard may be at it, too. Privilege: write access."""
    log.warning("a killed daemon left %s: it is swept", tree)
    if not cgroup.kill_and_remove(tree):
        log.error("%s: something in it cannot be killed", tree)
