"""A TCP proxy that misbehaves when told to: cuts, swallows, delays, refuses."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from types import TracebackType
from urllib.parse import urlsplit


class Proxy:
    """Forwards 127.0.0.1:`port` to a target. Use as `async with Proxy(host, port) as proxy`."""

    def __init__(self, target_host: str, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = (target_host, target_port)
        self._tls = tls  # spoken with clients
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0  # accepted so far
        self.to_target = asyncio.Event()  # cleared = what clients send is swallowed
        self.to_client = asyncio.Event()  # cleared = what the target sends is swallowed
        self.delay_s = 0.0  # each way
        self.heal()

    @classmethod
    def before(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Proxy:
        """Return a proxy for the service at `url`, which adds TLS if given a context."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        return cls(parts.hostname, parts.port, tls=tls)

    def url(self, url: str) -> str:
        """Return `url` with this proxy as its host and port."""
        parts = urlsplit(url)
        account = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{account}@127.0.0.1:{self.port}").geturl()

    def retarget(self, host: str, port: int) -> None:
        """Forward new connections there."""
        self._target = (host, port)

    def swallow(self) -> None:
        """Accept everything and pass nothing on, in both directions."""
        self.to_target.clear()
        self.to_client.clear()

    def heal(self) -> None:
        """Pass on what comes from now on."""
        self.to_target.set()
        self.to_client.set()

    def cut(self) -> None:
        """Reset all connections (RST), as when a firewall forgets them."""
        for pair in list(self._pairs):
            for writer in pair:
                sock = writer.get_extra_info("socket")
                if sock is not None and sock.fileno() >= 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def refuse(self) -> None:
        """Stop listening: new connections are refused until `listen`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def listen(self) -> None:
        """Listen (again) on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Proxy:
        await self.listen()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            pair = (writer, target_writer)
            self._pairs.add(pair)
            try:
                await asyncio.gather(
                    self._pump(reader, target_writer, self.to_target),
                    self._pump(target_reader, writer, self.to_client),
                )
            finally:
                self._pairs.discard(pair)
                target_writer.close()
        except OSError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if open_.is_set():
                    writer.write(data)
                    await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            writer.transport.abort()
