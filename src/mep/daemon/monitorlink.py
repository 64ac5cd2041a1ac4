"""The gate's side of the socket to the monitor: nothing is lost for lack of room, nothing blocks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mep.base.errors import HostError
from mep.wire.privsep import Channel, GateToMonitor, MonitorToGate

log = logging.getLogger(__name__)

Handler = Callable[[Any, int | None], None]


class MonitorLink:
    """Says and hears; `on_gone` is called once when the monitor is there no more. Needs the running loop."""

    def __init__(self, fd: int, handlers: Mapping[type, Handler], *, on_gone: Callable[[], None]) -> None:
        sock = socket.socket(fileno=fd)
        sock.settimeout(0.0)
        self._channel: Channel[GateToMonitor, MonitorToGate] = Channel(sock, MonitorToGate)
        self._handlers, self._on_gone = handlers, on_gone
        self._waiting: deque[tuple[GateToMonitor, int | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._on_readable)

    def say(self, message: GateToMonitor, fd: int | None = None) -> None:
        """Send now, or when there is room; the fd is closed once it is sent."""
        self._waiting.append((message, fd))
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            message, fd = self._waiting[0]
            try:
                self._channel.send(message, fd)
            except BlockingIOError:
                self._loop.add_writer(self._channel.fileno(), self._flush)
                return
            except OSError:
                return  # the monitor is gone: the reader tells
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)
        self._loop.remove_writer(self._channel.fileno())

    def _on_readable(self) -> None:
        try:
            got = self._channel.receive()
        except BlockingIOError:
            return
        except HostError as error:
            log.error("monitor: %s", error.for_admin())
            return
        if got is None:
            self._loop.remove_reader(self._channel.fileno())
            self._on_gone()
            return
        message, fd = got
        self._handlers[type(message)](message, fd)
