"""A descriptor that whoever closes it last has to wait for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LINGER_S = 5


@contextmanager
def lingering_socket() -> Iterator[socket.socket]:
    """Give a TCP socket whose last close takes LINGER_S: its peer does not read what is in the way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            sender.send(bytes(100_000))
    sender.setblocking(True)
    yield sender
    # what holds it last must not wait either: reset instead of lingering
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    sender.close()
