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
        self._retry: asyncio.TimerHandle | None = None
        self._refusal = ""
        self._connection: Any = None
        self._consuming = asyncio.Event()

    @property
    def consuming(self) -> bool:
        """Tell whether the broker delivers to us now."""
        return self._consuming.is_set()

    async def wait_consuming(self) -> None:
        """Return once the broker has accepted the subscription."""
        await self._consuming.wait()

    def holds(self, delivery: Delivery) -> bool:
        """Tell whether an ack for it would still count; if not, the broker delivers it again."""
        return delivery.key[0] == self._generation and self._channel is not None and bool(self._channel.is_open)

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> None:
        """Acknowledge it (and, with `multiple`, all before it on the same channel)."""
        if self.holds(delivery):
            self._channel.basic_ack(delivery.key[1], multiple=multiple)

    def reject(self, delivery: Delivery, *, requeue: bool = False) -> None:
        """Give it back (`requeue`) or away for good."""
        if self.holds(delivery):
            self._channel.basic_reject(delivery.key[1], requeue=requeue)

    def cancel(self) -> None:
        """Take no more messages; what was delivered can still be acknowledged until the connection closes."""
        self._stopped = True
        self._cancel_retry()
        if self._channel is not None and self._channel.is_open and self._tag:
            self._channel.basic_cancel(self._tag)
            self._tag = ""

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
        self._cancel_retry()
        self._channel, self._connection = None, None
        self._consuming.clear()

    def abandon(self) -> None:
        self.detach()

    # ---- inside ----

    def _on_channel(self, channel: Any) -> None:
        if self._stopped:
            channel.close()
            return
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
        if self._refusal:
            log.info("%s: consuming %s again", self._name, self.queue)
        self._refusal = ""
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
        """The queue was deleted under us. pika keeps the channel: close it, and begin again with a new one."""
        channel, self._channel = self._channel, None
        self._consuming.clear()
        if channel is not None and channel.is_open:
            channel.close()
        self._refused("the queue was deleted")

    def _on_channel_close(self, channel: Any, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._consuming.clear()
        self._channel = None
        if not self._stopped and self._connection is not None and self._connection.is_open:
            self._refused(str(reason))

    def _refused(self, why: str) -> None:
        """Say so once per reason, and try again later."""
        if why != self._refusal:
            self._refusal = why
            log.warning("%s: cannot consume %s, trying again: %s", self._name, self.queue, why)
        if self._on_refused is not None:
            self._on_refused(why)
        if not self._stopped:
            self._cancel_retry()
            self._retry = asyncio.get_running_loop().call_later(self._backoff.next_s(), self._attach_again)

    def _attach_again(self) -> None:
        self._retry = None
        if self._connection is not None and self._connection.is_open:
            self.attach(self._connection)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
