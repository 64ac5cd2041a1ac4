"""Consuming in batches: what has arrived is handled together, and acknowledged once it is handled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mep.base.errors import InputError
from mep.broker.backoff import Backoff
from mep.broker.consumer import Delivery

if TYPE_CHECKING:
    from mep.broker.connection import BrokerConnection

log = logging.getLogger(__name__)

OnDeliveries = Callable[[list[Delivery]], Awaitable[None]]


class BatchConsumer:
    """Awaits `on_deliveries` with all messages that are there, one call at a time; acknowledges them after it.

    What arrives during a call is the next batch: the slower the handler, the larger the batches, up to
    `prefetch`. Where the handler raises, its messages are kept and given again, each alone, to find the one that
    cannot be handled. A message that fails while others succeed is rejected (the queue's dead-letter rule says
    where it goes). If all fail, the handler's world is broken (a full disk): tried again, slower and slower.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        queue: str,
        on_deliveries: OnDeliveries,
        *,
        prefetch: int,
        backoff: Backoff | None = None,
    ) -> None:
        self._on_deliveries = on_deliveries
        self._backoff = backoff or Backoff(0.1, 10.0)
        self._arrived: list[Delivery] = []
        self._task: asyncio.Task[None] | None = None
        self._most = prefetch
        self._consumer = connection.consume(queue, self._on_delivery, prefetch=prefetch)

    async def wait_consuming(self) -> None:
        """Return once the broker has accepted the subscription."""
        await self._consumer.wait_consuming()

    async def close(self) -> None:
        """Take no more; finish the call that is under way. What is not handled yet stays in the queue."""
        self._consumer.cancel()
        self._arrived.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._consumer.close()

    # ---- inside ----

    def _on_delivery(self, delivery: Delivery) -> None:
        self._arrived.append(delivery)
        if self._task is None:
            # a task begins in the loop's next round: after all frames of this read have been parsed
            self._task = asyncio.get_running_loop().create_task(self._handle_all(), name="broker batches")

    async def _handle_all(self) -> None:
        try:
            while self._arrived:
                batch, self._arrived = self._arrived, []
                await self._handle(batch)
        finally:
            self._task = None

    async def _handle(self, batch: list[Delivery]) -> None:
        told = False
        while True:
            # what a lost connection has delivered is delivered again by the new one
            batch = [delivery for delivery in batch if self._consumer.holds(delivery)]
            if not batch:
                return
            error = await self._attempt(batch)
            if error is None:
                self._consumer.ack(batch[-1], multiple=True)
                self._backoff.reset()
                return
            if await self._set_aside_bad(batch, error):
                return
            if not told:
                log.error("%s: cannot handle messages, trying again: %r", self._consumer.queue, error)
                told = True
            await asyncio.sleep(self._backoff.next_s())
            room = max(0, self._most - len(batch))
            batch, self._arrived = batch + self._arrived[:room], self._arrived[room:]

    async def _set_aside_bad(self, batch: list[Delivery], error: Exception) -> bool:
        """Handle them one by one and reject the bad ones. False if no verdict is possible: all fail alike."""
        errors = [error] if len(batch) == 1 else [await self._attempt([delivery]) for delivery in batch]
        world_works = any(e is None for e in errors)
        left = False
        for delivery, found in zip(batch, errors, strict=True):
            if found is None:
                self._consumer.ack(delivery)
            elif world_works or isinstance(found, InputError):
                log.error("%s: rejected a message of %s: %r", self._consumer.queue, delivery.routing_key, found)
                self._consumer.reject(delivery)
            else:
                left = True
        return not left

    async def _attempt(self, batch: list[Delivery]) -> Exception | None:
        try:
            await self._on_deliveries(batch)
        except Exception as error:  # noqa: BLE001 - whatever the handler cannot do, no message is lost for it
            return error
        return None
