"""Consuming a queue, over reconnects and refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mep.broker.backoff import Backoff

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message. `key` is what `Consumer.ack` takes: it names the channel's generation too."""

    body: bytes
    headers: dict[str, Any]
    properties: Any  # pika.BasicProperties
    routing_key: str
    redelivered: bool
    key: tuple[int, int]


class Consumer:
    """Calls `on_delivery` for each message of `queue`, on the loop. Acknowledge each by `ack` (or `reject`).

    After a reconnect the broker delivers again what was not acknowledged; an ack for the old connection is
    ignored. A queue that is missing or refused is tried again, slower and slower; `on_refused` hears why.
    """

    on_gone: Callable[[Any], None]

    def __init__(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        exclusive: bool,
        on_refused: Callable[[str], None] | None,
        name: str,
    ) -> None:
        self.queue = queue
        self._on_delivery = on_delivery
        self._prefetch, self._exclusive = prefetch, exclusive
        self._on_refused = on_refused
        self._name = name
        self._channel: Any = None
        self._generation = 0
        self._tag = ""
        self._stopped = False
        self._backoff = Backoff(0.2, 10.0)
        self._connection: Any = None
        self._consuming = asyncio.Event()

    async def wait_consuming(self) -> None:
        """Return once the broker has accepted the subscription."""
        await self._consuming.wait()

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> None:
        """Acknowledge it (and, with `multiple`, all before it on the same channel)."""
        generation, tag = delivery.key
        if generation == self._generation and self._channel is not None:
            self._channel.basic_ack(tag, multiple=multiple)

    def reject(self, delivery: Delivery, *, requeue: bool = False) -> None:
        """Give it back (`requeue`) or away for good."""
        generation, tag = delivery.key
        if generation == self._generation and self._channel is not None:
            self._channel.basic_reject(tag, requeue=requeue)

    def cancel(self) -> None:
        """Take no more messages; what was delivered can still be acknowledged until the connection closes."""
        self._stopped = True
        if self._channel is not None and self._channel.is_open and self._tag:
            self._channel.basic_cancel(self._tag)

    def close(self) -> None:
        """Take no more, give back what is not acknowledged, and forget the channel."""
        self.cancel()
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()
        self.on_gone(self)

    async def drain(self) -> None:
        """Nothing to wait for: part of what a connection asks of its attachments."""

    # ---- called by the connection ----

    def attach(self, connection: Any) -> None:
        self._connection = connection
        if not self._stopped:
            connection.channel(on_open_callback=self._on_channel)

    def detach(self) -> None:
        self._channel, self._connection = None, None
        self._consuming.clear()

    # ---- inside ----

    def _on_channel(self, channel: Any) -> None:
        self._generation += 1
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_close)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        if self._prefetch:
            channel.basic_qos(prefetch_count=self._prefetch)
        self._tag = channel.basic_consume(
            self.queue, self._on_message, exclusive=self._exclusive, callback=self._on_consuming
        )

    def _on_consuming(self, _frame: Any) -> None:
        self._backoff.reset()
        self._consuming.set()

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if self._stopped:
            return  # not acknowledged: the broker gives it to the next consumer
        self._on_delivery(
            Delivery(
                body,
                properties.headers or {},
                properties,
                method.routing_key,
                method.redelivered,
                (self._generation, method.delivery_tag),
            )
        )

    def _on_cancelled_by_broker(self, _frame: Any) -> None:
        self._refused("the queue was deleted")
        self._again()

    def _on_channel_close(self, channel: Any, reason: BaseException) -> None:
        self._consuming.clear()
        if channel is not self._channel or self._stopped:
            return
        self._channel = None
        if self._connection is not None and self._connection.is_open:
            self._refused(str(reason))
            self._again()

    def _refused(self, why: str) -> None:
        log.warning("%s: cannot consume %s: %s", self._name, self.queue, why)
        if self._on_refused is not None:
            self._on_refused(why)

    def _again(self) -> None:
        connection = self._connection

        def retry() -> None:
            if connection is self._connection and connection is not None and connection.is_open:
                self.attach(connection)

        asyncio.get_running_loop().call_later(self._backoff.next_s(), retry)
