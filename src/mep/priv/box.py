"""What a user endpoint's processes are kept in: a cgroup, a session process on a leash, or both.

Without PAM, a cgroup alone: `uep-<id>`. With PAM the session process is outside what is killed, so that it can
close the session after: `uep-<id>/session` and `uep-<id>/user`. Without cgroups the session process is the
child-subreaper of all the others.
"""

from __future__ import annotations

import os
import socket

from mep.base.sizes import killed_by_memory
from mep.priv import clone, pamsession
from mep.priv.cgroup import Cgroup
from mep.priv.limits import Limits
from mep.priv.session import heard_end


class Box:
    """Holds processes that can all be killed. After `kill`, the end of the request process is certain to come."""

    def __init__(self, cgroup: Cgroup | None, *, session: bool) -> None:
        """Make what is below `cgroup`. OSError as the kernel says. Privilege: write access to it."""
        self._cgroup = cgroup
        self._inner: list[Cgroup] = []
        self._user = cgroup
        self._leash: socket.socket | None = None
        self._scope_fd = -1
        self.session_end: socket.socket | None = None
        self.limits = Limits()
        if session:
            self._leash, self.session_end = socket.socketpair()
        if session and cgroup is not None:
            cgroup.hand_down()
            self._inner = [Cgroup(cgroup.path / "session"), Cgroup(cgroup.path / "user")]
            self._user = self._inner[1]

    @property
    def has_session(self) -> bool:
        return self._leash is not None

    @property
    def first_fd(self) -> int | None:
        """What the request process is cloned into."""
        if self._inner:
            return self._inner[0].fd
        return self._cgroup.fd if self._cgroup else None

    @property
    def user_fd(self) -> int | None:
        """What a session process clones the user process into."""
        return self._user.fd if self._user and self._inner else None

    def forked(self) -> None:
        """In the monitor, after the fork: keep only our end of the leash. Privilege: none."""
        if self.session_end is not None:
            self.session_end.close()

    def limit(self, limits: Limits) -> None:
        """Set limits of the user's processes, lower than before or the same; absent controllers are skipped.

        The session process is not among them: the user's memory must not be the reason to end it. OSError: a limit
        that could be set was not. Privilege: write.
        """
        self.limits = limits
        if self._user is not None:
            for name, value in limits.cgroup_files().items():
                self._user.limit(name, value)

    def kill(self) -> None:
        """Kill the user's processes; a session process ends itself then. Privilege: as the box."""
        if self._user is not None:
            self._user.kill()
        if self._leash is not None:
            self._leash.close()

    def user_end(self) -> clone.Ended | None:
        """Return how the user's process ended, if a session process has said so. Privilege: none."""
        return heard_end(self._leash) if self._leash is not None else None

    def note_scope(self, pid: int, uid: int) -> None:
        """Remember where PAM had the system move session process `pid`, as the kernel says. Privilege: none."""
        if self._leash is not None and self._scope_fd < 0:
            self._scope_fd = pamsession.open_scope(pid, uid)

    def kill_all(self, child: clone.Child) -> None:
        """Kill the session process as well: nothing may hold an end up for ever. Privilege: as the box."""
        if self._cgroup is not None:
            self._cgroup.kill()
        clone.kill(child.pidfd)
        if self._scope_fd >= 0:
            pamsession.kill_scope(self._scope_fd)

    def is_empty(self) -> bool:
        """Tell whether everybody is gone, once the request process has ended. Privilege: none."""
        return self._cgroup is None or self._cgroup.is_empty()

    def pids(self) -> list[int]:
        """Return the processes that are known to live in it. Privilege: none."""
        return self._cgroup.pids() if self._cgroup is not None else []

    def open_events(self) -> int:
        """Return an fd that polls POLLPRI when `is_empty` may have changed. Privilege: none."""
        assert self._cgroup is not None
        return self._cgroup.open_events()

    def killed_by_memory(self) -> str:
        """Return why the kernel has killed a process of the user's for lack of memory, or "". Privilege: none."""
        events = self._user.memory_events() if self._user else {}
        if not events.get("oom_kill"):
            return ""
        return killed_by_memory(self.limits.memory if events.get("oom") else None)

    def remove(self) -> bool:
        """Give the empty box back; False if something lives in it. Privilege: as the box."""
        if self._leash is not None:
            self._leash.close()
        for inner in self._inner:
            os.close(inner.fd)
        if self._scope_fd >= 0:
            os.close(self._scope_fd)
        return self._cgroup.remove() if self._cgroup else True
