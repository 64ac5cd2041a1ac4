"""The control socket: `mep status`, `stop`, `reload`, `drain` ... of a running endpoint. Owner and root only."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.daemon.loop import Loop
from mep.wire import control
from mep.wire.control import Reply, Request
from mep.wire.decoding import INVALID

log = logging.getLogger(__name__)

_MOST_BYTES = 4096
_PATIENCE_S = 5.0
_MOST_CLIENTS = 32
_FULL_S = 0.5  # until our table of descriptors is looked at again

Verb = Callable[[Request], Reply]


class ControlServer:
    """Serves one request per connection, then closes it."""

    def __init__(self, loop: Loop, path: Path, verbs: Mapping[str, Verb], *, owner_uid: int) -> None:
        """Listen at `path` (0600); HostError(INTERNAL) if that cannot be. Privilege: write to its directory."""
        self._loop, self._path, self._verbs = loop, path, verbs
        self._allowed = frozenset({0, owner_uid})
        self._clients: dict[int, _Client] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)  # a killed predecessor's; the lock says that nobody uses it
            before = os.umask(0o177)
            try:
                with short_path(path) as short:
                    self._sock.bind(short)
            finally:
                os.umask(before)
            self._sock.listen(16)
        except OSError as error:
            raise HostError(Code.INTERNAL, f"Cannot listen at {path}: {error}.", step="") from None
        self._listen()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.watch(self._sock.fileno(), self._on_connect)

    def _on_connect(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:  # who waits would be announced again at once
            log.error("control socket: nobody is heard for now: %s", error)
            self._loop.unwatch(self._sock.fileno())
            self._loop.call_later(_FULL_S, self._listen)
            return
        sock.settimeout(0.0)
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in self._allowed or len(self._clients) >= _MOST_CLIENTS:
            sock.close()
            return
        client = _Client(sock)
        self._clients[sock.fileno()] = client
        self._loop.watch(sock.fileno(), lambda: self._on_readable(client))
        self._loop.call_later(_PATIENCE_S, lambda: self._drop(client))

    def _on_readable(self, client: _Client) -> None:
        try:
            chunk = client.sock.recv(_MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        client.received += chunk
        if b"\n" in client.received:
            reply = self._answer(client.received.partition(b"\n")[0])
            try:
                client.sock.settimeout(1.0)
                client.sock.sendall(control.encode(reply))
            except OSError:
                pass  # the asker has gone
            self._drop(client)
        elif not chunk or len(client.received) > _MOST_BYTES:
            self._drop(client)

    def _answer(self, line: bytes) -> Reply:
        try:
            request = control.decode_request(line)
        except INVALID as error:
            return Reply(ok=False, code=Code.USAGE, text=f"Not a request: {error}.")
        verb = self._verbs.get(request.verb)
        if verb is None:
            return Reply(ok=False, code=Code.USAGE, text=f"Unknown verb {request.verb[:40]!r}.")
        return verb(request)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is not None:
            self._loop.unwatch(client.sock.fileno())
            client.sock.close()


class _Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""


class short_path:
    """A name for `path` that fits a socket address (108 bytes): its directory by an fd."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
