"""A connection to nowhere: what each user endpoint does first with its broker, once before all of them are forked.

Nothing leaves the process: the broker's part is played by `_Broker`, which gives the answers of the protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pika
from pika import frame, spec

from mep.base.secrets import Secret
from mep.broker.coalesce import CoalescingConnection
from mep.broker.connection import BrokerConnection
from mep.broker.consumer import Delivery

_URL = "amqp://user:word@localhost:5672/%2F?heartbeat=30"
_QUEUE = "rehearsal"
_PROPERTIES = {"capabilities": {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}}


class _Broker:
    """Stands where pika expects a transport, and answers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[bytes], None]) -> None:
        self._loop, self._answer = loop, answer
        self._deliveries = self._published = 0

    def write(self, data: bytes) -> None:
        while data:
            length, received = frame.decode_frame(data)
            if not length:
                return
            data = data[length:]
            answers = b"".join(part.marshal() for part in self._answers_to(received))
            if answers:
                self._loop.call_soon(self._answer, answers)

    def abort(self) -> None:
        """There is nothing to let go."""

    def _answers_to(self, received: Any) -> list[Any]:
        if isinstance(received, frame.ProtocolHeader):
            return [frame.Method(0, spec.Connection.Start(server_properties=_PROPERTIES))]
        method, channel = getattr(received, "method", None), received.channel_number
        match method:
            case spec.Connection.StartOk():
                answers: list[Any] = [spec.Connection.Tune(channel_max=2047, frame_max=131072, heartbeat=30)]
            case spec.Connection.Open():
                answers = [spec.Connection.OpenOk()]
            case spec.Channel.Open():
                answers = [spec.Channel.OpenOk()]
            case spec.Confirm.Select():
                answers = [spec.Confirm.SelectOk()]
            case spec.Basic.Qos():
                answers = [spec.Basic.QosOk()]
            case spec.Basic.Consume():
                return [
                    frame.Method(channel, spec.Basic.ConsumeOk(method.consumer_tag)),
                    *self._delivery(method, channel),
                ]
            case spec.Basic.Publish():
                self._published += 1
                answers = [spec.Basic.Ack(delivery_tag=self._published)]
            case _:
                return []
        return [frame.Method(channel, one) for one in answers]

    def _delivery(self, consume: Any, channel: int) -> list[Any]:
        self._deliveries += 1
        method = spec.Basic.Deliver(consume.consumer_tag, self._deliveries, False, "", _QUEUE)  # noqa: FBT003
        properties = pika.BasicProperties(headers={"function_uuid": "none"}, content_type="application/json")
        return [frame.Method(channel, method), frame.Header(channel, 1, properties), frame.Body(channel, b"x")]


async def rehearse() -> None:
    """Connect, consume, take a message, publish one and see it confirmed; then forget it all. Logs nothing."""
    logging.disable()
    try:
        await _rehearse()
    finally:
        logging.disable(logging.NOTSET)


async def _rehearse() -> None:
    loop = asyncio.get_running_loop()
    broker = BrokerConnection(Secret(_URL), name="rehearsal")
    arrived: asyncio.Future[Delivery] = loop.create_future()
    publisher = broker.publisher()
    consumer = broker.consume(_QUEUE, arrived.set_result, prefetch=1, exclusive=True)
    connection = CoalescingConnection(
        pika.URLParameters(_URL),
        on_open_callback=broker._on_open,
        on_close_callback=lambda *_: None,
        custom_ioloop=loop,
        internal_connection_workflow=False,
    )
    connection._proto_connection_made(_Broker(loop, connection._proto_data_received))
    consumer.ack(await arrived)
    await publisher.publish("", _QUEUE, b"x", properties={"content_type": "application/json", "delivery_mode": 2})
    connection._heartbeat_checker.stop()
