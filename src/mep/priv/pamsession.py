"""An open PAM session, and the way back from where PAM's modules may have moved this process.

pam_systemd registers the session at logind, and the system moves the process that asked for it out of the daemon's
cgroup into a scope of its own, `user-N.slice/session-ID.scope`: whoever stops the daemon would no longer reach it.
So this process goes back before it forks anybody. The session stays open at logind for as long as the PAM handle's
descriptors are (a fifo), and with it the user's manager and XDG_RUNTIME_DIR.
"""

from __future__ import annotations

import os
import re

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv import cgroup
from mep.priv.pam import Pam

_EMPTY_S = 1.0


class PamSession:
    """Opened when it is made. `environment`: what modules set; `fds`: what must stay open as long as it does."""

    def __init__(self, pam: Pam, *, uid: int, home_fd: int | None) -> None:
        """Open it; `home_fd`: the cgroup that this process belongs into, if it has one.

        RefusedError(PAM_REFUSED); HostError(SPAWN_FAILED) if there is no way back. Privilege: root throughout.
        """
        self._pam = pam
        self._scope_fd = -1
        before, fds_before = cgroup.own_path(), _open_fds()
        self.environment = pam.open()
        try:
            if home_fd is not None and cgroup.own_path() != before:
                self._scope_fd = _open_scope(uid)
                _go_back(home_fd, before)
        except OSError as error:
            pam.close()
            raise HostError(
                Code.SPAWN_FAILED,
                "The endpoint could not start your process.",
                admin_text=f"PAM moved the session process out of {before}, and it cannot go back: {error}.",
            ) from None
        self.fds = _open_fds() - fds_before

    def close(self) -> None:
        """Close it, then kill what modules left in its scope: no process of the user's was ever there.

        Privilege: as for the making.
        """
        self._pam.close()
        if self._scope_fd >= 0:
            try:
                cgroup.empty_fd(self._scope_fd, _EMPTY_S)
            except OSError:
                pass  # it is gone already, as it should be


def _go_back(home_fd: int, home: str | None) -> None:
    """Move this process; OSError if it is not where it was. Privilege: root."""
    cgroup.join_fd(home_fd)
    if cgroup.own_path() != home:
        raise OSError(f"it is in {cgroup.own_path()}")


def _open_scope(uid: int) -> int:
    """Return an fd of the scope that was made for this session, or -1 if PAM took us to anything else.

    By descriptor: a later scope of the same name is another one. Privilege: none.
    """
    path = cgroup.find_base()
    if path is None or not is_session_scope(str(path), uid):
        return -1
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


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
