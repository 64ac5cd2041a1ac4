"""The monitor's end of the socket to the gate, which may have been taken over.

A descriptor is taken only if it is a memory file. Of anything else the last close may wait for whoever made it (a
TCP socket that lingers, a file of a user's own file system), and the monitor waits for nobody.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from typing import Final

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv.apart import close_apart
from mep.wire.privsep import Channel, GateToMonitor, MonitorToGate

_F_GET_SEALS: Final = 1034  # fails for what is no memory file, without asking it anything
_ROOM_FOR_ONE: Final = socket.CMSG_LEN(array.array("i").itemsize)
_OURS = Channel[MonitorToGate, GateToMonitor]


class GateChannel(_OURS):
    """Hears the gate, whatever it sends. `close` never waits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, GateToMonitor)
        sock.settimeout(0.0)

    def receive(self) -> tuple[GateToMonitor, int | None] | None:
        """As Channel.receive; HostError(INTERNAL) for a descriptor that is not wanted: it stays where it is.

        OSError(EMFILE): our own table has no room for it.
        """
        self._look()
        return super().receive()

    def hang_up(self) -> None:
        """Let nobody send any more; what is there can still be received."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the other end is closed

    def close(self) -> None:
        """OSError if the kernel refuses the process that this takes: nothing is closed then, try again."""
        close_apart(self.sock)

    def _look(self) -> None:
        """Judge the next message's descriptor. Closing what was only looked at is not the last close."""
        look = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
        try:
            _, ancillary, flags, _ = self.sock.recvmsg(1, _ROOM_FOR_ONE, look)
        except ConnectionResetError:
            return  # told once: what comes now is the end
        fds = array.array("i")
        for _level, _kind, data in ancillary:
            fds.frombytes(data)
        if flags & socket.MSG_CTRUNC and not fds:
            raise OSError(errno.EMFILE, "no room for a descriptor: raise LimitNOFILE= of the service")
        try:
            if flags & socket.MSG_CTRUNC:
                raise HostError(Code.INTERNAL, "A message of another process has too many descriptors.")
            for fd in fds:
                fcntl.fcntl(fd, _F_GET_SEALS)
        except OSError:
            raise HostError(
                Code.INTERNAL, "A message of another process has something else than a memory file."
            ) from None
        finally:
            for fd in fds:
                os.close(fd)
