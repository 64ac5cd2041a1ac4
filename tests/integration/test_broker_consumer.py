"""Consuming from a real broker: over cuts, deletions and refusals, alone and in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.broker import BatchConsumer, BrokerConnection, Channel, Delivery
from mep.broker.backoff import Backoff
from mep.relay.brokeraddress import BrokerAddress
from support.proxy import Proxy

_DEAD_LETTERS = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}


async def declare(channel: Channel) -> None:
    await channel.declare_queue("dead", arguments={})
    await channel.declare_queue("q", arguments=_DEAD_LETTERS)


@pytest.fixture
async def proxy(broker: BrokerAddress) -> AsyncIterator[Proxy]:
    async with Proxy.before(broker.amqp.reveal()) as made:
        yield made


@pytest.fixture
async def connection(broker: BrokerAddress, proxy: Proxy) -> AsyncIterator[BrokerConnection]:
    url = Secret(proxy.url(broker.amqp.reveal()))
    made = BrokerConnection(url, name="test", prepare=declare, backoff=Backoff(0.02, 0.1))
    made.open()
    await made.wait_open(10)
    yield made
    await made.close()


async def fill(connection: BrokerConnection, *wanted: bytes) -> None:
    publisher = connection.publisher()
    await asyncio.gather(*(publisher.publish("", "q", b, properties={"delivery_mode": 2}) for b in wanted))


class Sink:
    """Takes deliveries; `has` waits until that many different bodies came."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._new = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._new.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.deliveries) < count:
                self._new.clear()
                await self._new.wait()


async def left(connection: BrokerConnection, queue: str = "q") -> int:
    channel = await connection.channel()
    facts = await channel.inspect_queue(queue)
    channel.close()
    return facts.messages


async def until_left(connection: BrokerConnection, count: int, queue: str = "q") -> None:
    async with asyncio.timeout(10):
        while await left(connection, queue) != count:
            await asyncio.sleep(0.02)


async def test_what_is_not_acknowledged_comes_again_after_a_cut(
    connection: BrokerConnection, proxy: Proxy
) -> None:
    await fill(connection, b"1", b"2", b"3")
    sink = Sink()
    consumer = connection.consume("q", sink)
    await sink.has(3)
    consumer.ack(sink.deliveries[0])
    assert await left(connection) == 0  # a round trip: the ack has arrived
    proxy.cut()
    await sink.has(5)
    assert [(d.body, d.redelivered) for d in sink.deliveries[3:]] == [(b"2", True), (b"3", True)]
    assert not consumer.holds(sink.deliveries[1])
    consumer.ack(sink.deliveries[1])  # of the old connection: must not acknowledge another message of the new one
    consumer.ack(sink.deliveries[3])
    consumer.close()
    await until_left(connection, 1)


async def test_a_deleted_queue_is_consumed_again_when_it_is_back(connection: BrokerConnection) -> None:
    refused: list[str] = []
    sink = Sink()
    consumer = connection.consume("q", sink, on_refused=refused.append)
    await consumer.wait_consuming()
    channel = await connection.channel()
    await channel.delete_queue("q")
    async with asyncio.timeout(5):
        while not refused:
            await asyncio.sleep(0.01)
    await channel.declare_queue("q", arguments=_DEAD_LETTERS)
    await asyncio.wait_for(consumer.wait_consuming(), 10)
    await fill(connection, b"x")
    await sink.has(1)
    numbers = connection._connection._channels  # type: ignore[union-attr]
    assert len(numbers) <= 4, f"channels leak: {numbers}"


async def test_a_missing_queue_is_told_once_and_tried_again(
    connection: BrokerConnection, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[str] = []
    with caplog.at_level(logging.WARNING, logger="mep"):
        connection.consume("absent", lambda _d: None, on_refused=refused.append)
        async with asyncio.timeout(5):
            while len(refused) < 3:
                await asyncio.sleep(0.01)
    assert "no queue 'absent'" in refused[0]
    assert len([r for r in caplog.records if "cannot consume" in r.getMessage()]) == 1


async def test_an_exclusive_queue_is_taken_over_when_the_other_leaves(connection: BrokerConnection) -> None:
    first = connection.consume("q", lambda _d: None, exclusive=True)
    await first.wait_consuming()
    refused = asyncio.Event()
    second = connection.consume("q", lambda _d: None, exclusive=True, on_refused=lambda _why: refused.set())
    await asyncio.wait_for(refused.wait(), 5)
    first.close()
    await asyncio.wait_for(second.wait_consuming(), 10)


async def test_a_cancelled_consumer_takes_no_more_and_can_still_acknowledge(connection: BrokerConnection) -> None:
    await fill(connection, b"1")
    sink = Sink()
    consumer = connection.consume("q", sink)
    await sink.has(1)
    consumer.cancel()
    await fill(connection, b"2")
    consumer.ack(sink.deliveries[0])
    await until_left(connection, 1)
    consumer.close()
    assert [d.body for d in sink.deliveries] == [b"1"]


async def test_a_batch_is_what_has_arrived(connection: BrokerConnection) -> None:
    """While the handler is busy, what arrives becomes one batch; the acknowledgement follows the handling."""
    batches: list[list[bytes]] = []
    go = asyncio.Event()

    async def handle(deliveries: list[Delivery]) -> None:
        batches.append([d.body for d in deliveries])
        await go.wait()

    consumer = BatchConsumer(connection, "q", handle, prefetch=500)
    await consumer.wait_consuming()
    await fill(connection, b"first")
    await fill(connection, *(b"%d" % n for n in range(300)))
    await asyncio.sleep(0.2)
    assert batches == [[b"first"]]
    go.set()
    async with asyncio.timeout(5):
        while len(batches) < 2:
            await asyncio.sleep(0.01)
    assert batches[1] == [b"%d" % n for n in range(300)]
    await consumer.close()
    assert await left(connection) == 0


async def test_what_is_not_handled_yet_is_not_acknowledged(connection: BrokerConnection) -> None:
    started = asyncio.Event()

    async def handle(_deliveries: list[Delivery]) -> None:
        started.set()
        await asyncio.Event().wait()

    consumer = BatchConsumer(connection, "q", handle, prefetch=500)
    await fill(connection, b"1", b"2")
    await asyncio.wait_for(started.wait(), 5)
    await consumer.close()
    await until_left(connection, 2)


async def test_one_bad_message_does_not_stop_the_others(connection: BrokerConnection) -> None:
    handled: list[bytes] = []

    async def handle(deliveries: list[Delivery]) -> None:
        if any(d.body == b"bad" for d in deliveries):
            raise ValueError("cannot read this")
        handled.extend(d.body for d in deliveries)

    await fill(connection, b"1", b"bad", b"2")
    consumer = BatchConsumer(connection, "q", handle, prefetch=500, backoff=Backoff(0.01, 0.05))
    await until_left(connection, 1, "dead")
    await until_left(connection, 0)
    assert sorted(handled) == [b"1", b"2"]
    await consumer.close()
    assert await left(connection) == 0


async def test_a_message_that_is_said_to_be_wrong_is_rejected_at_once(connection: BrokerConnection) -> None:
    async def handle(_deliveries: list[Delivery]) -> None:
        raise InputError(Code.TASK_MALFORMED, "no")

    await fill(connection, b"bad")
    consumer = BatchConsumer(connection, "q", handle, prefetch=500)
    await until_left(connection, 1, "dead")
    await consumer.close()


async def test_while_nothing_can_be_handled_nothing_is_given_up(connection: BrokerConnection) -> None:
    """A full disk is no message's fault."""
    broken, handled = True, asyncio.Event()
    tries = 0

    async def handle(deliveries: list[Delivery]) -> None:
        nonlocal tries
        tries += 1
        if broken:
            raise OSError("disk full")
        assert {d.body for d in deliveries} >= {b"1", b"2"}
        handled.set()

    await fill(connection, b"1", b"2")
    consumer = BatchConsumer(connection, "q", handle, prefetch=500, backoff=Backoff(0.01, 0.05))
    async with asyncio.timeout(5):
        while tries < 10:
            await asyncio.sleep(0.01)
    broken = False
    await asyncio.wait_for(handled.wait(), 5)
    await until_left(connection, 0)
    assert await left(connection, "dead") == 0
    await consumer.close()
    assert await left(connection) == 0


async def test_a_batch_of_a_lost_connection_is_handled_again(connection: BrokerConnection, proxy: Proxy) -> None:
    """Its acknowledgement did not arrive: the broker delivers it again, and receivers recognise it by its ids."""
    seen: list[tuple[bytes, bool]] = []
    cut = False

    async def handle(deliveries: list[Delivery]) -> None:
        nonlocal cut
        seen.extend((d.body, d.redelivered) for d in deliveries)
        if not cut:
            cut = True
            proxy.cut()
            await asyncio.sleep(0.3)

    await fill(connection, b"1")
    consumer = BatchConsumer(connection, "q", handle, prefetch=500)
    async with asyncio.timeout(5):
        while len(seen) < 2:
            await asyncio.sleep(0.01)
    assert seen == [(b"1", False), (b"1", True)]
    await consumer.close()
    assert await left(connection) == 0
