"""Hears of tasks that begin on workers of this host, while they run; from other hosts it is told with the result.

A datagram socket in the user endpoint's own directory: who can write there is the user.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

_LONGEST_PATH: Final = 100  # the kernel takes 107 bytes
_MOST_BYTES: Final = 1024
_AT_ONCE: Final = 100  # then others have their turn


class Ear:
    """`heard` gets what a worker said, nothing of it checked. `path` is "" where there can be no such socket."""

    def __init__(self, directory: str, heard: Callable[[dict[str, Any]], None]) -> None:
        self.path = os.path.join(directory, "workers")
        self._heard = heard
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(0.0)
        try:
            if len(os.fsencode(self.path)) > _LONGEST_PATH:
                raise OSError("its path is too long")
            if os.path.lexists(self.path):
                os.unlink(self.path)  # of a user endpoint that was killed
            self._sock.bind(self.path)
        except OSError as error:
            log.info("workers tell with their results where they run: %s: %s", self.path, error)
            self.path = ""
            return
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._read)

    def close(self) -> None:
        """Hear nothing more."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                said = json.loads(self._sock.recv(_MOST_BYTES))
            except BlockingIOError:
                return
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(said, dict):
                self._heard(said)


def tell(path: str, said: dict[str, Any]) -> None:
    """In a worker: say it, if anybody listens at `path` on this host. Never waits, raises nothing."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.0)
            sock.sendto(json.dumps(said).encode(), path)
    except OSError:
        pass  # another host, or nobody there any more
