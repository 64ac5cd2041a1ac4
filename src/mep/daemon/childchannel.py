"""The monitor's end of the socket to a request process, which is the user's own process after the drop.

It takes no descriptors: the kernel closes one that nobody wants in the receiver's name, and a user can make that
last for hours (a TCP socket that lingers). It never blocks: who does not read, misses it.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Final

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv.apart import close_apart
from mep.wire.privsep import Channel, ChildToMonitor, MonitorToChild

_SO_PASSRIGHTS: Final = 83  # Linux 6.16: 0 makes sending descriptors to this socket fail
_ROOM: Final = socket.CMSG_SPACE(struct.calcsize("3i"))  # for credentials, and for nothing else
_OURS = Channel[MonitorToChild, ChildToMonitor]


class ChildChannel(_OURS):
    """Hears a child, whatever it sends. `close` never waits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, ChildToMonitor)
        sock.settimeout(0.0)
        self._kernel_refuses = _refuse_descriptors(sock)
        if not self._kernel_refuses:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def receive(self) -> tuple[ChildToMonitor, int | None] | None:
        """As Channel.receive; HostError(INTERNAL) for a message with a descriptor, which stays where it is."""
        if not self._kernel_refuses and self._look()[1]:
            raise HostError(Code.INTERNAL, "A message of another process has a descriptor.")
        return super().receive()

    def unheard(self) -> bool:
        """Tell whether something that was sent has not been received."""
        room = struct.pack("i", 0)
        return struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, room)) != (0,)

    def hang_up(self) -> None:
        """Let nobody send any more; what is there can still be received."""
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the other end is closed

    def close(self) -> None:
        """OSError if the kernel refuses the process that this may take: nothing is closed then, try again."""
        self.hang_up()
        if self._kernel_refuses or not self._look()[0]:
            self.sock.close()
        else:
            close_apart(self.sock)

    def _look(self) -> tuple[bool, bool]:
        """Tell whether there is a message, and whether it has a descriptor, without taking it.

        What stays in the socket is not closed. Each message has its sender's credentials, the end has none.
        """
        try:
            _, ancillary, flags, _ = self.sock.recvmsg(1, _ROOM, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False, False
        return bool(ancillary), bool(flags & socket.MSG_CTRUNC)


def _refuse_descriptors(sock: socket.socket) -> bool:
    """Let the kernel refuse them at the sender's; False where it cannot."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True
