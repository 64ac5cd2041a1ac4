"""An open PAM session, wherever PAM's modules move the process that opens it.

pam_systemd registers the session at logind, and the system moves this process out of the daemon's cgroup into a
scope of its own, `user-N.slice/session-ID.scope`. It stays there: logind takes the end of a session from nobody
else, and nobody who stops or kills the daemon as a whole can keep it from closing the session. The user's process
is never there: it is cloned into the user endpoint's own cgroup, which the daemon, its guard and systemd can kill.
"""

from __future__ import annotations

import os
import re
import signal

import pyprctl

from mep.base.exits import Exit
from mep.priv import cgroup
from mep.priv.pam import Pam


class PamSession:
    """Opened when it is made. `environment`: what modules set; `fds`: what must stay open as long as it does."""

    def __init__(self, pam: Pam, *, uid: int, parent_pid: int, home_fd: int | None) -> None:
        """Open it; `home_fd`: the cgroup that this process is in, if it has one of its own.

        RefusedError(PAM_REFUSED). Privilege: root throughout.
        """
        self._pam, self._home_fd = pam, home_fd
        before = _open_fds()
        # A module may hang after the system has moved us to where nobody looks for us when the monitor is killed.
        pyprctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent_pid:
            os._exit(Exit.FAILED)
        self.environment = pam.open()
        pyprctl.set_pdeathsig(None)
        self.fds = _open_fds() - before
        self._scope_fd = open_scope("self", uid)
        if self._scope_fd >= 0:
            self.fds.add(self._scope_fd)
        if home_fd is not None:
            self.fds.add(home_fd)

    def close(self) -> None:
        """Close it, leave its scope and kill what modules left there. Privilege: as for the making."""
        self._pam.close()
        if self._scope_fd < 0:
            return
        try:
            if self._home_fd is not None:
                cgroup.join_fd(self._home_fd)
        except OSError:
            pass  # the daemon is gone, and its cgroups with it: we end with the rest of the scope
        kill_scope(self._scope_fd)


def kill_scope(scope_fd: int) -> None:
    """Kill what PAM's modules left in a scope: no process of the user endpoint was ever there. Privilege: root."""
    try:
        cgroup.empty_fd(scope_fd, 0)
    except OSError:
        pass  # nobody was left, and the scope is gone


def open_scope(pid: int | str, uid: int) -> int:
    """Return an fd of the scope that a session process was moved to for its session; -1 if there is none.

    By descriptor: a later scope of the same name is another one. Privilege: none.
    """
    try:
        path = cgroup.find_base(pid)
        if path is None or not is_session_scope(str(path), uid):
            return -1
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1  # it has ended


def is_session_scope(path: str, uid: int) -> bool:
    """Tell whether the cgroup is a session of `uid` as logind makes them. Privilege: none."""
    return re.search(rf"/user-{uid}\.slice/session-[A-Za-z0-9]+\.scope$", path) is not None


def _open_fds() -> set[int]:
    """Return the descriptors that are open, but for the one that reads the list. Privilege: none."""
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
