"""What a user endpoint's processes are kept in: a cgroup, or a session process on a leash."""

from __future__ import annotations

import os
import socket
from typing import Protocol

from mep.priv.cgroup import Cgroup


class Box(Protocol):
    """Holds processes that can all be killed. After `kill`, empty is certain to come."""

    cgroup_fd: int | None  # what the child is cloned into

    def kill(self) -> None:
        """Kill everybody in it. Privilege: root, or a delegated cgroup."""

    def is_empty(self) -> bool:
        """Tell whether everybody in it is gone, once the first process has ended. Privilege: none."""

    def open_events(self) -> int:
        """Return an fd that polls POLLPRI when `is_empty` may have changed. Privilege: none."""

    def oom_kills(self) -> int:
        """Return how many processes a memory limit killed. Privilege: none."""

    def remove(self) -> bool:
        """Give the empty box back. Privilege: as `kill`."""


class CgroupBox:
    """A cgroup of its own."""

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self.cgroup_fd: int | None = cgroup.fd

    def kill(self) -> None:
        self._cgroup.kill()

    def is_empty(self) -> bool:
        return self._cgroup.is_empty()

    def open_events(self) -> int:
        return self._cgroup.open_events()

    def oom_kills(self) -> int:
        return self._cgroup.oom_kills()

    def limit(self, name: str, value: str) -> bool:
        return self._cgroup.limit(name, value)

    def remove(self) -> bool:
        return self._cgroup.remove()


class SessionBox:
    """A leash: when our end closes (or we die), the session process kills its user process and all that it caused.

    The session process itself ends last, so an ended one means an empty box.
    """

    cgroup_fd: int | None = None

    def __init__(self) -> None:
        self._ours, self.session_end = socket.socketpair()

    def let_child_have_it(self) -> None:
        """In the parent, after the fork: keep only our end. Privilege: none."""
        self.session_end.close()

    def kill(self) -> None:
        self._ours.close()

    def is_empty(self) -> bool:
        return True

    def open_events(self) -> int:
        return os.eventfd(0, os.EFD_CLOEXEC)

    def oom_kills(self) -> int:
        return 0

    def limit(self, name: str, value: str) -> bool:
        return False

    def remove(self) -> bool:
        self._ours.close()
        return True
