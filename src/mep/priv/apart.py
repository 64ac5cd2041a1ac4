"""Closing what may take its time: in a process of its own, so that the caller does not wait."""

from __future__ import annotations

import errno
import os
import socket

from mep.base.exits import Exit
from mep.priv import clone, fds


def close_apart(sock: socket.socket) -> None:
    """Close `sock`, unread messages included, without waiting for whatever a peer has put into them.

    A descriptor inside an unread message is closed with it, by whoever closes last. A TCP socket that lingers,
    sent by a peer that then dropped it, holds that process up for as long as the peer likes; but no process that
    is exiting. So the last one is a grandchild, which exits. OSError if the kernel refuses a process: the socket
    is still open then, as ours would be the last close. Privilege: none.
    """
    readable, writable = os.pipe()
    kept = [0, 1, 2, sock.fileno(), readable]

    def hold() -> int:
        fds.close_all_except(kept)
        os.read(readable, 1)  # until our grandparent has closed its own
        return Exit.OK

    def leave_one_behind() -> int:
        try:
            os.close(clone.spawn(hold).pidfd)
        except OSError:
            return Exit.TRY_AGAIN
        return Exit.OK

    try:
        child = clone.spawn(leave_one_behind)
        ended = clone.reap(child.pidfd, block=True)
        os.close(child.pidfd)
        if ended is None or not ended.clean:
            raise OSError(errno.EAGAIN, "no process to leave it to")
        sock.close()
    finally:
        os.close(readable)
        os.close(writable)
