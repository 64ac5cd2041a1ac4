"""Queues as the relay wants them: made before they are named to anybody, made again when they vanish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mep.broker import BrokerConnection, Channel, ConnectionLostError, QueueFacts, RefusedByBrokerError
from mep.relay import topology

T = TypeVar("T")

_CHANNELS = 4  # twice as fast as one when many users come at once; more bring nothing
_PRECONDITION_FAILED = 406
_TRUSTED_S = 3600.0  # much less than what makes an unused queue expire; asking again begins that time anew
_REMEMBERED = 100_000


class Queues:
    """Declares over a few channels, one request at a time on each: a refusal ends the channel and all that wait.

    While the broker is away a request waits. `forget` after each reconnect: the broker may have lost its data.
    """

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._declared: dict[str, float] = {}  # when, on the loop's clock
        self._free: list[Channel] = []
        self._slots = asyncio.Semaphore(_CHANNELS)

    def forget(self, queue: str | None = None) -> None:
        """Look again, at the next `ensure`, whether the queue (all queues) exist."""
        if queue is None:
            self._declared.clear()
        else:
            self._declared.pop(queue, None)

    async def ensure(self, queue: str, exchange: str | None = None) -> None:
        """Make the queue, bound to `exchange` by its own name, unless that is known to be done."""
        now = asyncio.get_running_loop().time()
        if self._declared.get(queue, -_TRUSTED_S) + _TRUSTED_S > now:
            return
        await self._declare(queue, exchange)
        if len(self._declared) > _REMEMBERED:
            self._declared.clear()
        self._declared[queue] = now

    async def facts(self, queue: str, exchange: str | None = None) -> QueueFacts:
        """Return how many messages and consumers the queue has now; made if it is missing."""
        return await self._declare(queue, exchange)

    async def purge(self, queue: str, exchange: str | None = None) -> int:
        """Remove the messages that no consumer holds; return how many."""
        await self._declare(queue, exchange)
        return await self._run(lambda channel: channel.purge_queue(queue))

    async def delete(self, queue: str) -> None:
        """Delete the queue and what is in it; one that is not there is fine."""
        self.forget(queue)
        await self._run(lambda channel: channel.delete_queue(queue))

    # ---- inside ----

    async def _declare(self, queue: str, exchange: str | None) -> QueueFacts:
        """Declare and bind. A queue that exists with other arguments (an older release's, an administrator's) is
        taken as it is."""

        async def make(channel: Channel) -> QueueFacts:
            facts = await channel.declare_queue(queue, arguments=topology.queue_arguments(queue))
            if exchange is not None:
                await channel.bind_queue(queue, exchange, queue)
            return facts

        async def find(channel: Channel) -> QueueFacts:
            facts = await channel.inspect_queue(queue)
            if exchange is not None:
                await channel.bind_queue(queue, exchange, queue)
            return facts

        try:
            return await self._run(make)
        except RefusedByBrokerError as error:
            if error.reply_code != _PRECONDITION_FAILED:
                raise
        return await self._run(find)

    async def _run(self, request: Callable[[Channel], Awaitable[T]]) -> T:
        """Await `request` with a channel; again where the connection breaks meanwhile: it must be repeatable."""
        async with self._slots:
            while True:
                try:
                    channel = await self._take()
                    return await self._use(channel, request)
                except ConnectionLostError:
                    continue

    async def _use(self, channel: Channel, request: Callable[[Channel], Awaitable[T]]) -> T:
        try:
            answer = await request(channel)
        except BaseException:  # cancelled, too: an answer may still be on its way to this channel
            channel.close()
            raise
        self._free.append(channel)
        return answer

    async def _take(self) -> Channel:
        while self._free:
            channel = self._free.pop()
            if channel.is_open:
                return channel
        return await self._connection.channel()
