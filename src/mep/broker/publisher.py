"""Confirmed publishing: a message is out when the broker has it and has routed it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika

from mep.base.codes import Code
from mep.base.errors import ServiceError


class UnroutableError(ServiceError):
    """The broker has no queue for this message: it was returned."""


@dataclass(slots=True, eq=False)
class _Message:
    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    mandatory: bool
    done: asyncio.Future[None]
    returned: bool = False


class Publisher:
    """Publishes with confirms on a channel of its own; keeps, over reconnects, what is not confirmed yet.

    Order is kept within one connection. A message may reach the broker twice if the connection breaks between
    its arrival and its confirm: receivers recognise it by its ids.
    """

    on_gone: Callable[[Any], None]

    def __init__(self, name: str) -> None:
        self._name = name
        self._channel: Any = None
        self._connection: Any = None
        self._waiting: deque[_Message] = deque()  # not handed to the channel yet
        self._sent: OrderedDict[int, _Message] = OrderedDict()  # by delivery tag
        self._tag = 0
        # After the broker closed our channel for one message, we cannot tell which: that many messages are sent
        # one by one, so that only the guilty one fails.
        self._one_by_one = 0
        self._idle: list[asyncio.Future[None]] = []
        self._abandoned = False

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

        `properties` are AMQP properties by pika's names (`delivery_mode`, `timestamp`, ...); `message_id` is ours.
        The future raises UnroutableError if the broker returned the message, ServiceError(BROKER_REFUSED) if it
        refused it, ServiceError(BROKER_UNREACHABLE) if the connection was closed for good before.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made = pika.BasicProperties(headers=dict(headers) if headers else None, **(properties or {}))
        message = _Message(exchange, routing_key, body, made, mandatory, future)
        if self._abandoned:
            self._settle(message, _closed_for_good())
        else:
            self._waiting.append(message)
            self._send_waiting()
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
        self._connection = connection
        connection.channel(on_open_callback=self._on_channel)

    def detach(self) -> None:
        self._channel = None
        self._connection = None
        self._take_back()

    def abandon(self) -> None:
        """The connection is closed for good: nothing more will be sent."""
        self.detach()
        self._abandoned = True
        waiting, self._waiting = self._waiting, deque()
        for message in waiting:
            self._settle(message, _closed_for_good())
        self._wake_idle()

    # ---- inside ----

    def _on_channel(self, channel: Any) -> None:
        if self._abandoned:
            return
        channel.add_on_close_callback(self._on_channel_close)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm)
        self._channel, self._tag = channel, 0
        self._send_waiting()

    def _on_channel_close(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel or self._connection is None or not self._connection.is_open:
            return  # with the connection: detach follows
        if len(self._sent) == 1:
            (guilty,) = self._sent.values()
            self._sent.clear()
            self._settle(guilty, ServiceError(Code.BROKER_REFUSED, f"The broker refused a message: {reason}"))
            self._one_by_one -= 1
        else:
            self._one_by_one = max(self._one_by_one, len(self._sent))
        self._channel = None
        self._take_back()
        self._wake_idle()
        self.attach(self._connection)

    def _take_back(self) -> None:
        """What is sent and not confirmed waits again, in order, before what was not sent."""
        for message in reversed(self._sent.values()):
            message.returned = False
            self._waiting.appendleft(message)
        self._sent.clear()

    def _send_waiting(self) -> None:
        while self._channel is not None and self._waiting and not (self._one_by_one > 0 and self._sent):
            self._send(self._waiting.popleft())

    def _send(self, message: _Message) -> None:
        tag = self._tag + 1
        message.properties.message_id = str(tag)  # tells which message a return is about
        try:
            self._channel.basic_publish(
                message.exchange,
                message.routing_key,
                message.body,
                message.properties,
                mandatory=message.mandatory,
            )
        except pika.exceptions.AMQPError as error:  # nothing was sent: a property of a type that AMQP has not
            self._settle(message, ServiceError(Code.INTERNAL, f"A message cannot be encoded: {error!r}"))
            return
        self._tag, self._sent[tag] = tag, message

    def _on_return(self, channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        message = self._sent.get(int(properties.message_id)) if channel is self._channel else None
        if message is not None:
            message.returned = True  # the confirm follows

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        nacked = isinstance(method, pika.spec.Basic.Nack)
        if method.multiple:
            while self._sent and (first := next(iter(self._sent))) <= method.delivery_tag:
                self._confirmed(self._sent.pop(first), nacked=nacked)
        elif (message := self._sent.pop(method.delivery_tag, None)) is not None:
            self._confirmed(message, nacked=nacked)
        self._send_waiting()
        self._wake_idle()

    def _confirmed(self, message: _Message, *, nacked: bool) -> None:
        self._one_by_one = max(0, self._one_by_one - 1)
        error: Exception | None = None
        if message.returned:
            error = UnroutableError(Code.BROKER_REFUSED, f"No queue takes messages for {message.routing_key!r}.")
        elif nacked:
            error = ServiceError(Code.BROKER_REFUSED, "The broker could not store a message.")
        self._settle(message, error)

    def _settle(self, message: _Message, error: Exception | None) -> None:
        if message.done.done():
            return
        if error is None:
            message.done.set_result(None)
        else:
            message.done.set_exception(error)

    def _wake_idle(self) -> None:
        if self._idle and not self.outstanding:
            idle, self._idle = self._idle, []
            for future in idle:
                if not future.done():
                    future.set_result(None)


def _closed_for_good() -> ServiceError:
    return ServiceError(
        Code.BROKER_UNREACHABLE, "The connection to the broker was closed before a message was out."
    )
