"""The user endpoint's side of the socket to the monitor."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from mep.base.errors import HostError
from mep.wire import privsep
from mep.wire.privsep import Channel, ChildToMonitor, Failed, MonitorToChild, Note, Ready
from mep.wire.taskevents import TaskEvents

log = logging.getLogger(__name__)

_ROOM_S = 0.02  # a socket that was full has room again, if its reader is not stuck


class MonitorLink:
    """Says what is up, hears what to do. Never blocks: notes are dropped, everything else waits for room.

    `fd` -1: there is no monitor (then nothing is sent and nothing heard).
    """

    def __init__(self, fd: int) -> None:
        self._channel: Channel[ChildToMonitor, MonitorToChild] | None = None
        self._pending: deque[Ready | Failed] = deque()
        if fd >= 0:
            sock = socket.socket(fileno=fd)
            sock.settimeout(0.0)
            self._channel = Channel(sock, MonitorToChild)
        self._last_note: Note | None = None

    def listen(
        self,
        *,
        on_quit: Callable[[float], None],
        on_refresh: Callable[[int], None],
        on_hold: Callable[[str], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Hear the monitor from now on. The fd of a refresh is the callee's to close."""
        if self._channel is None:
            return
        channel = self._channel

        def readable() -> None:
            try:
                got = channel.receive()
            except BlockingIOError:
                return
            except HostError as error:
                log.error("monitor: %s", error.for_admin())
                return
            if got is None:
                asyncio.get_running_loop().remove_reader(channel.fileno())
                on_gone()
                return
            message, fd = got
            if isinstance(message, privsep.Refresh) and fd is not None:
                on_refresh(fd)
                return
            if fd is not None:
                os.close(fd)
            if isinstance(message, privsep.Quit):
                on_quit(message.grace_s)
            elif isinstance(message, privsep.Hold):
                on_hold(message.why)
            elif not isinstance(message, privsep.Go):
                log.warning("monitor: unexpected %s", type(message).__name__)

        asyncio.get_running_loop().add_reader(channel.fileno(), readable)

    def ready(self) -> None:
        """Say that tasks are taken now."""
        self._send(Ready())

    def note(self, state: str, *, done: int, pending: int) -> None:
        """Say how it goes, if that changed."""
        note = Note(state=privsep.cap_text(state)[:200], tasks_done=done, tasks_pending=pending)
        if self._channel is None or note == self._last_note:
            return
        try:
            self._channel.send(note)
            self._last_note = note
        except OSError:
            pass  # the monitor is busy or gone; the next note says more anyway

    def tasks(self, message: TaskEvents) -> bool:
        """Tell how far tasks are; False: there is no room now, say it later."""
        if self._channel is None or self._pending:
            return False
        try:
            self._channel.send(message)
        except BlockingIOError:
            return False
        except OSError:
            pass  # the monitor is gone, and so are we in a moment
        return True

    async def drained(self, flush: Callable[[], bool], limit_s: float) -> None:
        """Call `flush` until it says that all is told, or there is no more time."""
        end = asyncio.get_running_loop().time() + limit_s
        while not flush() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_ROOM_S)

    def _send(self, message: Ready | Failed) -> None:
        if self._channel is None:
            return
        self._pending.append(message)
        self._flush()

    def _flush(self) -> None:
        channel = self._channel
        assert channel is not None
        loop = asyncio.get_running_loop()
        try:
            while self._pending:
                channel.send(self._pending[0])
                self._pending.popleft()
        except BlockingIOError:
            loop.add_writer(channel.fileno(), self._flush)
            return
        except OSError as error:
            log.error("monitor: cannot be told: %s", error)
            self._pending.clear()
        loop.remove_writer(channel.fileno())


def tell_failed(fd: int, failed: Failed) -> None:
    """Say why there will be no user endpoint, waiting for room if need be; before any loop runs."""
    if fd < 0:
        return
    sock = socket.socket(fileno=os.dup(fd))
    try:
        sock.settimeout(5.0)
        Channel[ChildToMonitor, MonitorToChild](sock, MonitorToChild).send(failed)
    except OSError as error:
        log.error("monitor: cannot be told of a failure: %s", error)
    finally:
        sock.close()
