"""A channel with awaitable declarations: for the side that owns the broker's topology."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from mep.base.codes import Code
from mep.base.errors import ServiceError


class ConnectionLostError(ServiceError):
    """The connection broke before the answer came: what was asked for may have been done or not."""


class RefusedByBrokerError(ServiceError):
    """The broker said no: `reply_code` is AMQP's (403 access refused, 404 not found, 406 precondition failed)."""

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(Code.BROKER_REFUSED, text)
        self.reply_code = reply_code


@dataclass(frozen=True)
class QueueFacts:
    """What a declaration is answered with."""

    messages: int  # ready ones; those held unacknowledged by consumers do not count
    consumers: int


class Channel:
    """A pika channel whose requests are awaited. It dies with its connection (ConnectionLostError), or with the
    first request that the broker refuses (RefusedByBrokerError for that one and all waiting)."""

    def __init__(self, connection: Any) -> None:
        self._waiting: list[asyncio.Future[Any]] = []
        self._loop = asyncio.get_running_loop()
        self._opened = self._future()
        self._channel = connection.channel(on_open_callback=self._opened_now)
        self._channel.add_on_close_callback(self._on_close)

    @property
    def is_open(self) -> bool:
        return bool(self._channel.is_open)

    async def wait_open(self) -> None:
        await self._opened

    async def declare_exchange(self, name: str, kind: str) -> None:
        await self._call(lambda done: self._channel.exchange_declare(name, kind, durable=True, callback=done))

    async def declare_queue(self, name: str, *, arguments: Mapping[str, Any]) -> QueueFacts:
        """Make a durable queue, or find it (with the same arguments); say what is in it."""
        frame = await self._call(
            lambda done: self._channel.queue_declare(name, durable=True, arguments=dict(arguments), callback=done)
        )
        return QueueFacts(frame.method.message_count, frame.method.consumer_count)

    async def bind_queue(self, queue: str, exchange: str, routing_key: str) -> None:
        await self._call(lambda done: self._channel.queue_bind(queue, exchange, routing_key, callback=done))

    async def inspect_queue(self, name: str) -> QueueFacts:
        """Say what is in the queue; a queue that is not there is a refusal."""
        frame = await self._call(lambda done: self._channel.queue_declare(name, passive=True, callback=done))
        return QueueFacts(frame.method.message_count, frame.method.consumer_count)

    async def purge_queue(self, name: str) -> int:
        """Remove what is ready in the queue; return how many messages that were."""
        frame = await self._call(lambda done: self._channel.queue_purge(name, callback=done))
        return int(frame.method.message_count)

    async def delete_queue(self, name: str) -> None:
        """Delete the queue, if it is there, and what is in it."""
        await self._call(lambda done: self._channel.queue_delete(name, callback=done))

    def close(self) -> None:
        if self._channel.is_open:
            self._channel.close()

    # ---- inside ----

    def _future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        future.add_done_callback(self._waiting.remove)
        return future

    def _opened_now(self, _channel: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    async def _call(self, request: Callable[[Callable[[Any], None]], object]) -> Any:
        if not self._channel.is_open:
            raise ConnectionLostError(Code.BROKER_UNREACHABLE, "The connection to the broker has just been lost.")
        future = self._future()
        request(lambda frame: None if future.done() else future.set_result(frame))
        return await future

    def _on_close(self, _channel: Any, reason: BaseException) -> None:
        text = f"The broker closed the channel: {reason}"
        for future in list(self._waiting):
            if future.done():
                continue
            if isinstance(reason, ChannelClosedByBroker):
                future.set_exception(RefusedByBrokerError(reason.reply_code, text))
            else:
                future.set_exception(ConnectionLostError(Code.BROKER_UNREACHABLE, text))
