"""The broker of the model: see raceworld."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from mep.base.secrets import Secret
from mep.broker import Delivery, State
from support.virtualtime import Process, current, settle

CORE, UEP, PERSON = (f"{n}0000000-0000-4000-8000-000000000000" for n in "123")
SECRET = Secret("model")  # of the relay: the keys of all seals come from it


class Broker:
    """Queues that outlive everybody, and who holds what of them."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.queues: defaultdict[str, deque[Any]] = defaultdict(deque)
        self.consumers: dict[str, ModelConsumer] = {}
        self.arrived: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.groups: list[bytes] = []

    def put(self, queue: str, message: Any, *, first: bool = False) -> None:
        (self.queues[queue].appendleft if first else self.queues[queue].append)(message)
        self.arrived[queue].set()
        if (consumer := self.consumers.get(queue)) is not None:
            consumer.feed()

    def restart(self) -> None:
        """Everybody is disconnected; what was not acknowledged is delivered again."""
        self.up.clear()
        for consumer in list(self.consumers.values()):
            consumer.dropped()

    def back(self) -> None:
        self.up.set()
        for event in self.arrived.values():
            event.set()


class ModelConsumer:
    """As broker.Consumer: comes back by itself after a disconnect."""

    def __init__(self, broker: Broker, queue: str, on_delivery: Callable[[Delivery], None], prefetch: int) -> None:
        self._broker, self.queue, self._on_delivery, self._prefetch = broker, queue, on_delivery, prefetch
        self._unacked: dict[int, Any] = {}
        self._tags = itertools.count(1)
        self._on = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._owner = current()
        assert self._owner is not None
        self._attach_soon()

    @property
    def consuming(self) -> bool:
        return self._on.is_set()

    async def wait_consuming(self) -> None:
        await self._on.wait()

    def _attach_soon(self) -> None:
        assert self._owner is not None
        self._task = self._owner.run(asyncio.get_running_loop(), self._attach())

    async def _attach(self) -> None:
        await asyncio.sleep(0.01)
        await self._broker.up.wait()
        while self.queue in self._broker.consumers:  # exclusive
            await asyncio.sleep(0.5)
        self._broker.consumers[self.queue] = self
        self._on.set()
        self.feed()

    def feed(self) -> None:
        queue = self._broker.queues[self.queue]
        while self._on.is_set() and queue and len(self._unacked) < self._prefetch:
            tag, message = next(self._tags), queue.popleft()
            self._unacked[tag] = message
            delivery = Delivery(
                message["body"], message["headers"], None, "", message.get("again", False), (0, tag)
            )
            later = partial(asyncio.get_running_loop().call_soon, self._deliver, delivery)
            self._owner.call(later)  # type: ignore[union-attr]

    def _deliver(self, delivery: Delivery) -> None:
        if delivery.key[1] in self._unacked and self._on.is_set():
            self._on_delivery(delivery)

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> None:
        last = delivery.key[1]
        for tag in [t for t in self._unacked if t == last or (multiple and t < last)]:
            del self._unacked[tag]
        self.feed()

    def reject(self, delivery: Delivery, *, requeue: bool = False) -> None:
        self.ack(delivery)

    def cancel(self) -> None:
        self.dropped(for_good=True)

    close = cancel

    def dropped(self, *, for_good: bool = False) -> None:
        """The broker has lost us, or we it."""
        if self._broker.consumers.get(self.queue) is self:
            del self._broker.consumers[self.queue]
        self._on.clear()
        if self._task is not None:
            self._task.cancel()
        kept, self._unacked = self._unacked, {}
        for tag in sorted(kept, reverse=True):
            self._broker.put(self.queue, {**kept[tag], "again": True}, first=True)
        if not for_good:
            self._attach_soon()


class ModelLinks:
    """As endpoint.Links, to the model's broker."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self.state = State("connected", 0.0)
        self.results = self.reports = self
        self.results_route = SimpleNamespace(publish=lambda _, body: self._publish("results", body))
        self.reports_route = SimpleNamespace(publish=lambda _, body: self._publish("heartbeats", body))
        self._consumers: list[ModelConsumer] = []
        process.links = self  # type: ignore[attr-defined]

    def open(self) -> None:
        pass

    def consume(self, on_delivery: Any, *, prefetch: int, on_refused: Any) -> ModelConsumer:
        self._consumers.append(ModelConsumer(self._broker, f"{UEP}.tasks", on_delivery, prefetch))
        return self._consumers[-1]

    def refresh(self, _creds: Any) -> None:
        pass

    async def close(self, drain_s: float) -> None:
        await asyncio.sleep(0.02)
        self.lost()

    def lost(self) -> None:
        for consumer in self._consumers:
            consumer.cancel()

    def _publish(self, queue: str, body: bytes) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.003, self._put, queue, body, future)
        return future

    def _put(self, queue: str, body: bytes, future: asyncio.Future[None]) -> None:
        """Now or when the broker is back, as broker.Publisher; the confirm comes a moment later, if at all."""
        loop, broker = asyncio.get_running_loop(), self._broker
        if not broker.up.is_set():
            loop.call_later(0.2, self._put, queue, body, future)
            return
        broker.put(queue, {"sender": UEP, "body": body, "headers": {}})
        loop.call_later(0.003, lambda: settle(future))
