"""One daemon per endpoint: a lock that the kernel gives back when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError, RefusedError


class EndpointLock:
    """Held for as long as the daemon lives. `fd` must survive daemonising, and no child may keep it."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self.fd = -1

    def take(self) -> None:
        """Take it, or raise RefusedError(ALREADY_RUNNING) naming the holder. Privilege: write access there."""
        try:
            self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held_by = os.pread(self.fd, 300, 0).decode(errors="replace").strip() if self.fd >= 0 else ""
            self.release()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RefusedError(
                    Code.ALREADY_RUNNING,
                    f"This endpoint is running already ({held_by or 'holder unknown'}).",
                    step="",
                ) from None
            raise HostError(
                Code.CONFIG_UNREADABLE, f"Cannot lock {self._path}: {error.strerror}.", step=""
            ) from None

    def sign(self) -> None:
        """Write down who holds it: this process."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Give it back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_held(self) -> bool:
        """Tell whether some daemon holds it. Privilege: read access."""
        return not self._try(fcntl.LOCK_SH | fcntl.LOCK_NB)

    def wait_released(self) -> None:
        """Return when no daemon holds it. Blocks: bound it with an alarm. Privilege: read access."""
        self._try(fcntl.LOCK_SH)

    def _try(self, operation: int) -> bool:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, operation)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True
