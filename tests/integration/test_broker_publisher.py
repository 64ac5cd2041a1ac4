"""Confirmed publishing against a real broker: what is confirmed is there, what is not confirmed is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mep.base.errors import ServiceError
from mep.base.secrets import Secret
from mep.broker import BrokerConnection, Channel, Delivery, Publisher, UnroutableError
from mep.broker.backoff import Backoff
from mep.relay.brokeraddress import BrokerAddress
from support.proxy import Proxy

_PERSISTENT = {"delivery_mode": 2}


@pytest.fixture
async def proxy(broker: BrokerAddress) -> AsyncIterator[Proxy]:
    async with Proxy.before(broker.amqp.reveal()) as made:
        yield made


@pytest.fixture
async def connection(broker: BrokerAddress, proxy: Proxy) -> AsyncIterator[BrokerConnection]:
    async def declare(channel: Channel) -> None:
        await channel.declare_queue("q", arguments={})

    url = Secret(proxy.url(broker.amqp.reveal()))
    made = BrokerConnection(url, name="test", prepare=declare, backoff=Backoff(0.02, 0.1))
    made.open()
    await made.wait_open(10)
    yield made
    await made.close()


async def bodies(connection: BrokerConnection, count: int, *, queue: str = "q") -> list[bytes]:
    """Consume until `count` different bodies have come; return all, in order of arrival."""
    got: list[bytes] = []
    enough = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        got.append(delivery.body)
        consumer.ack(delivery)
        if len(set(got)) >= count:
            enough.set()

    consumer = connection.consume(queue, on_delivery)
    await asyncio.wait_for(enough.wait(), 20)
    consumer.close()
    return got


def send(publisher: Publisher, body: bytes, key: str = "q") -> asyncio.Future[None]:
    return publisher.publish("", key, body, properties=_PERSISTENT)


async def test_a_confirmed_message_is_in_the_queue_in_order(connection: BrokerConnection) -> None:
    publisher = connection.publisher()
    wanted = [b"%d" % n for n in range(1000)]
    await asyncio.gather(*(send(publisher, body) for body in wanted))
    assert await bodies(connection, 1000) == wanted
    assert publisher.outstanding == 0


async def test_an_unroutable_message_is_an_error_and_the_others_are_not(connection: BrokerConnection) -> None:
    publisher = connection.publisher()
    good, bad, last = send(publisher, b"1"), send(publisher, b"2", "nowhere"), send(publisher, b"3")
    await good
    with pytest.raises(UnroutableError, match="nowhere"):
        await bad
    await last
    assert await bodies(connection, 2) == [b"1", b"3"]


async def test_a_refused_message_fails_alone_whatever_was_on_the_way_with_it(connection: BrokerConnection) -> None:
    """The broker closes the channel for it, and its answer does not name the message."""
    publisher = connection.publisher()
    before = [send(publisher, b"b%d" % n) for n in range(50)]
    bad = publisher.publish("no such exchange", "q", b"bad", properties=_PERSISTENT)
    after = [send(publisher, b"a%d" % n) for n in range(50)]
    with pytest.raises(ServiceError, match="no exchange"):
        await asyncio.wait_for(bad, 10)
    await asyncio.wait_for(asyncio.gather(*before, *after), 10)
    wanted = [b"b%d" % n for n in range(50)] + [b"a%d" % n for n in range(50)]
    assert list(dict.fromkeys(await bodies(connection, 100))) == wanted
    # and it is fast again: not one by one for ever
    assert publisher._one_by_one == 0


async def test_two_refused_messages_fail_both(connection: BrokerConnection) -> None:
    publisher = connection.publisher()
    sent = [publisher.publish("none" if n in (3, 7) else "", "q", b"%d" % n) for n in range(10)]
    ends = await asyncio.wait_for(asyncio.gather(*sent, return_exceptions=True), 10)
    assert [n for n, end in enumerate(ends) if end is not None] == [3, 7]


async def test_a_message_that_amqp_cannot_carry_fails_alone(connection: BrokerConnection) -> None:
    publisher = connection.publisher()
    bad = publisher.publish("", "q", b"x", headers={"h": object()})
    with pytest.raises(ServiceError, match="cannot be encoded"):
        await bad
    await asyncio.wait_for(send(publisher, b"fine"), 5)


async def test_confirms_survive_a_cut_connection(connection: BrokerConnection, proxy: Proxy) -> None:
    """What was sent and not confirmed when the connection broke is sent again, and confirmed."""
    publisher = connection.publisher()
    await send(publisher, b"the channel is open")
    proxy.to_client.clear()  # the messages arrive, the confirms do not
    first = [send(publisher, b"f%d" % n) for n in range(20)]
    await asyncio.sleep(0.1)
    assert not any(future.done() for future in first)
    proxy.cut()
    proxy.heal()
    second = [send(publisher, b"s%d" % n) for n in range(20)]
    await asyncio.wait_for(asyncio.gather(*first, *second), 10)
    got = await bodies(connection, 41)
    assert set(got) >= {b"f%d" % n for n in range(20)} | {b"s%d" % n for n in range(20)}


async def test_nothing_is_lost_over_many_cuts(connection: BrokerConnection, proxy: Proxy) -> None:
    publisher = connection.publisher()
    futures = []
    for number in range(600):
        futures.append(send(publisher, b"%d" % number))
        if number % 100 == 50:
            await asyncio.sleep(0.005)
            proxy.cut()
    await asyncio.wait_for(asyncio.gather(*futures), 20)
    got = await bodies(connection, 600)
    assert set(got) == {b"%d" % n for n in range(600)}


async def test_messages_wait_for_a_broker_that_is_away(connection: BrokerConnection, proxy: Proxy) -> None:
    publisher = connection.publisher()
    await proxy.refuse()
    proxy.cut()
    waiting = send(publisher, b"late")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await proxy.listen()
    await asyncio.wait_for(waiting, 10)


async def test_what_is_not_out_at_the_close_fails(broker: BrokerAddress, proxy: Proxy) -> None:
    """A future never hangs: not even that of a message which will never be sent."""
    await proxy.refuse()
    connection = BrokerConnection(Secret(proxy.url(broker.amqp.reveal())), name="test")
    connection.open()
    publisher = connection.publisher()
    future = send(publisher, b"x")
    await connection.close(drain_s=0.1)
    for doomed in (future, send(publisher, b"y")):
        with pytest.raises(ServiceError, match="closed before"):
            await doomed


async def test_close_waits_for_confirms(connection: BrokerConnection) -> None:
    publisher = connection.publisher()
    futures = [send(publisher, b"x") for _ in range(100)]
    await connection.close(drain_s=5)
    assert all(future.done() and future.exception() is None for future in futures)
