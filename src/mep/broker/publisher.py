"""Confirmed publishing: a message is out when the broker has it and has routed it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika

from mep.base.codes import Code
from mep.base.errors import ServiceError

log = logging.getLogger(__name__)


class UnroutableError(ServiceError):
    """The broker has no queue for this message: it was returned."""


@dataclass(frozen=True)
class _Message:
    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    mandatory: bool
    done: asyncio.Future[None]


class Publisher:
    """Publishes with confirms on a channel of its own; keeps, over reconnects, what is not confirmed yet.

    Order is kept within one connection. A message may reach the broker twice if the connection breaks between
    its arrival and its confirm: receivers recognise it by its ids.
    """

    on_gone: Callable[[Any], None]

    def __init__(self, name: str) -> None:
        self._name = name
        self._channel: Any = None
        self._waiting: list[_Message] = []  # not handed to a channel yet
        self._sent: OrderedDict[int, _Message] = OrderedDict()  # by delivery tag of the current channel
        self._returned: set[str] = set()
        self._tag = 0
        self._idle: list[asyncio.Future[None]] = []

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        mandatory: bool = True,
    ) -> asyncio.Future[None]:
        """Hand the message to the broker, now or when it is back; the future ends with the broker's confirm.

        `properties` are AMQP properties by pika's names (`delivery_mode`, `timestamp`, ...). The future raises
        UnroutableError if the broker returned the message, ServiceError(BROKER_REFUSED) on a nack.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made = pika.BasicProperties(**{**(properties or {}), "headers": dict(headers) if headers else None})
        message = _Message(exchange, routing_key, body, made, mandatory, future)
        if self._channel is not None:
            self._send(message)
        else:
            self._waiting.append(message)
        return future

    @property
    def outstanding(self) -> int:
        """Return how many messages are not confirmed yet."""
        return len(self._waiting) + len(self._sent)

    async def drain(self) -> None:
        """Return when nothing is outstanding."""
        if self.outstanding:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future

    # ---- called by the connection ----

    def attach(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def detach(self) -> None:
        self._channel = None
        self._waiting = [*self._sent.values(), *self._waiting]
        self._sent.clear()
        self._returned.clear()

    # ---- inside ----

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_close)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm)
        self._channel, self._tag = channel, 0
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self._send(message)

    def _on_channel_close(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        first = next(iter(self._sent.values()), None)
        self.detach()
        if channel.connection.is_open:
            # the broker closes the channel for what we sent (no such exchange, no permission): that is the
            # oldest unconfirmed message's fault; fail it, or we would send it for ever
            if first is not None and first in self._waiting:
                self._waiting.remove(first)
                self._settle(first, ServiceError(Code.BROKER_REFUSED, f"The broker refused a message: {reason}"))
            self.attach(channel.connection)

    def _send(self, message: _Message) -> None:
        self._tag += 1
        message.properties.message_id = str(self._tag)  # tells which message a return is about
        self._sent[self._tag] = message
        self._channel.basic_publish(
            message.exchange, message.routing_key, message.body, message.properties, mandatory=message.mandatory
        )

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [t for t in self._sent if t <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        nacked = type(method).__name__ == "Nack"
        for tag in tags:
            message = self._sent.pop(tag, None)
            if message is None:
                continue
            error: Exception | None = None
            if str(tag) in self._returned:
                self._returned.discard(str(tag))
                error = UnroutableError(
                    Code.BROKER_REFUSED, f"No queue takes messages for {message.routing_key!r}."
                )
            elif nacked:
                error = ServiceError(Code.BROKER_REFUSED, "The broker could not store a message.")
            self._settle(message, error)
        if not self.outstanding:
            idle, self._idle = self._idle, []
            for future in idle:
                if not future.done():
                    future.set_result(None)

    def _settle(self, message: _Message, error: Exception | None) -> None:
        if message.done.done():
            return
        if error is None:
            message.done.set_result(None)
        else:
            message.done.set_exception(error)
