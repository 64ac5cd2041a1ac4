"""A few channels for declarations, each used by one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mep.broker import BrokerConnection, Channel, ConnectionLostError

T = TypeVar("T")

_CHANNELS = 4  # twice as fast as one when many users come at once; more bring nothing


class ControlChannels:
    """Runs declarations, one at a time on a channel: a refusal ends the channel and all that wait on it."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._free: list[Channel] = []
        self._slots = asyncio.Semaphore(_CHANNELS)

    async def run(self, request: Callable[[Channel], Awaitable[T]]) -> T:
        """Await `request` with a channel; again where the connection breaks meanwhile: it must be repeatable.

        ServiceError(BROKER_REFUSED) if the broker says no.
        """
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
