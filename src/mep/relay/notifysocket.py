"""A socket on which a child says READY=1, as it would to systemd (sd_notify(3))."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

_LONGEST_PATH = 100  # a Unix socket's path has room for 107 bytes


class NotifySocket:
    """Listens in `directory` (or, where that path is too long, in a temporary one) until `close`.

    It outlives the READY=1: a child that cannot say STOPPING=1 at its end logs a crash instead.
    """

    def __init__(self, directory: Path) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if len(str(directory)) > _LONGEST_PATH:
            self._temporary = tempfile.TemporaryDirectory(prefix="mep-")
            directory = Path(self._temporary.name)
        self.path = directory / "notify"
        self.path.unlink(missing_ok=True)  # a killed predecessor's
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._socket.bind(str(self.path))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._on_readable)
        self.ready: asyncio.Future[None] = self._loop.create_future()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _on_readable(self) -> None:
        words = self._socket.recv(4096).decode(errors="replace").split("\n")
        if "READY=1" in words and not self.ready.done():
            self.ready.set_result(None)
