"""The event loop of every process of ours that forks: asyncio without its hidden thread."""

from __future__ import annotations

import asyncio
import socket
from typing import Any


class ThreadlessEventLoop(asyncio.SelectorEventLoop):
    """Resolves names in place: asyncio's default starts a thread for it, and a process that forks must have one.

    A lookup happens only when a connection is made; the time it takes is bounded by the resolver's own limits.
    """

    async def getaddrinfo(self, host: Any, port: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(host, port, **kwargs)


def new_loop() -> ThreadlessEventLoop:
    """Return a new loop and make it the current one."""
    loop = ThreadlessEventLoop()
    asyncio.set_event_loop(loop)
    return loop
