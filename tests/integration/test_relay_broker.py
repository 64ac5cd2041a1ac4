"""The relay's side of the broker: what it sends, what it receives, and what it puts right by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.broker import BrokerConnection, Delivery
from mep.relay import queues, topology
from mep.relay.amqp import Incoming, OutgoingTask, RelayBroker
from mep.relay.brokeraddress import BrokerAddress
from support.broker import make_vhost, manage, temporary_vhost
from support.proxy import Proxy


@pytest.fixture
async def relay(broker: BrokerAddress) -> AsyncIterator[RelayBroker]:
    made = RelayBroker(broker)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def peer(broker: BrokerAddress) -> AsyncIterator[BrokerConnection]:
    """Another connection to the same broker: an endpoint, a user endpoint or an SDK."""
    made = BrokerConnection(broker.amqp, name="peer")
    made.open()
    await made.wait_open(10)
    yield made
    await made.close(drain_s=5)


async def take(peer: BrokerConnection, queue: str, count: int) -> list[Delivery]:
    """Consume exactly so many messages and acknowledge them."""
    got: list[Delivery] = []
    enough = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        got.append(delivery)
        if len(got) == count:
            enough.set()

    consumer = peer.consume(queue, on_delivery)
    await asyncio.wait_for(enough.wait(), 10)
    consumer.ack(got[-1], multiple=True)
    consumer.close()
    return got


async def test_a_command_looks_as_every_endpoint_wants_it(relay: RelayBroker, peer: BrokerConnection) -> None:
    endpoint = new_id()
    await relay.publish_command(endpoint, b'{"command": "x"}', "the.signature", debug=True)
    (got,) = await take(peer, f"{endpoint}.commands", 1)
    assert got.body == b'{"command": "x"}'
    assert got.properties.content_type == "application/json"
    assert abs(got.properties.timestamp - time.time()) < 3
    assert got.headers == {"mep-signature": "the.signature", "debug": True}
    assert got.properties.delivery_mode == 2


async def test_tasks_arrive_in_order_with_their_headers(relay: RelayBroker, peer: BrokerConnection) -> None:
    uep, function = new_id(), new_id()
    tasks = [OutgoingTask(new_id(), function, b"%d" % n) for n in range(1000)]
    tasks[7] = OutgoingTask("seven", function, b"7", {"num_nodes": 2}, ["some.Strategy"])
    await relay.publish_tasks(uep, tasks)
    facts = await relay.queue_facts(uep)
    assert (facts.messages, facts.consumers) == (1000, 0)
    got = await take(peer, f"{uep}.tasks", 1000)
    assert [d.body for d in got] == [b"%d" % n for n in range(1000)]
    assert got[0].headers == {"function_uuid": function, "task_uuid": tasks[0].task_id}
    assert got[7].headers == {
        "function_uuid": function,
        "task_uuid": "seven",
        "resource_specification": '{"num_nodes": 2}',
        "result_serializers": ["some.Strategy"],
    }


async def test_a_result_reaches_its_group(relay: RelayBroker, peer: BrokerConnection) -> None:
    alice, group = new_id(), new_id()
    await relay.ensure_group_queue(alice, group)
    await relay.publish_results(alice, group, [b"1", b"2"], timestamp=1_700_000_000)
    await relay.publish_results(alice, group, [b""], high_assurance=True)
    got = await take(peer, f"tg.{alice}.{group}", 3)
    assert [d.body for d in got] == [b"1", b"2", b""]
    assert got[0].properties.timestamp == 1_700_000_000
    assert (got[0].headers, got[2].headers) == ({}, {"high_assurance": True})


async def test_results_and_heartbeats_name_their_sender(relay: RelayBroker, peer: BrokerConnection) -> None:
    uep = new_id()
    results: list[Incoming] = []
    beats: list[Incoming] = []
    both = asyncio.Event()

    def collect(into: list[Incoming]) -> object:
        async def on_batch(batch: list[Incoming]) -> None:
            into.extend(batch)
            if results and beats:
                both.set()

        return on_batch

    consumers = [relay.consume_results(collect(results)), relay.consume_heartbeats(collect(beats))]  # type: ignore[arg-type]
    publisher = peer.publisher()
    await publisher.publish("results", f"{uep}.results", b"r")
    await publisher.publish("heartbeats", f"{uep}.heartbeats", b"h")
    await asyncio.wait_for(both.wait(), 10)
    assert [(i.sender, i.body) for i in results] == [(uep, b"r")]
    assert [(i.sender, i.body) for i in beats] == [(uep, b"h")]
    for consumer in consumers:
        await consumer.close()


async def test_consumers_are_counted_and_tasks_purged(relay: RelayBroker, peer: BrokerConnection) -> None:
    uep = new_id()
    await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"x") for _ in range(3)])
    assert await relay.consumer_count(uep) == 0
    assert await relay.purge_tasks(uep) == 3
    consumer = peer.consume(f"{uep}.tasks", lambda _d: None, exclusive=True)
    await consumer.wait_consuming()
    assert await relay.consumer_count(uep) == 1
    consumer.close()


async def test_a_queue_that_was_deleted_is_made_again_and_nothing_is_lost(
    relay: RelayBroker, peer: BrokerConnection
) -> None:
    """The relay believes that the queue is there; the broker returns the message; the relay puts it right."""
    uep, alice, group = new_id(), new_id(), new_id()
    await relay.ensure_uep_queues(uep)
    await relay.ensure_group_queue(alice, group)
    channel = await peer.channel()
    await channel.delete_queue(f"{uep}.tasks")
    await channel.delete_queue(f"tg.{alice}.{group}")
    await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"%d" % n) for n in range(3)])
    await relay.publish_results(alice, group, [b"r"])
    assert [d.body for d in await take(peer, f"{uep}.tasks", 3)] == [b"0", b"1", b"2"]
    assert [d.body for d in await take(peer, f"tg.{alice}.{group}", 1)] == [b"r"]


async def test_counting_after_a_deletion_does_not_break_the_relay(
    relay: RelayBroker, peer: BrokerConnection
) -> None:
    uep = new_id()
    await relay.ensure_uep_queues(uep)
    await (await peer.channel()).delete_queue(f"{uep}.tasks")
    assert await relay.consumer_count(uep) == 0
    await relay.delete_uep_queues(uep)
    await relay.delete_uep_queues(uep)  # of a queue that is gone: no error
    assert await relay.purge_tasks(uep) == 0


async def test_a_queue_of_an_older_release_is_taken_as_it_is(relay: RelayBroker, peer: BrokerConnection) -> None:
    """Declared with other arguments: the broker refuses ours, and the queue serves nevertheless."""
    uep = new_id()
    await (await peer.channel()).declare_queue(f"{uep}.tasks", arguments={"x-max-length": 5})
    await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"t")])
    assert (await relay.queue_facts(uep)).messages == 1
    assert await relay.purge_tasks(uep) == 1


async def test_a_queue_that_expired_is_made_before_it_is_named_to_anybody(
    relay: RelayBroker, peer: BrokerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was declared long ago is not trusted: an SDK that is told of a missing queue gives up."""
    alice, group = new_id(), new_id()
    await relay.ensure_group_queue(alice, group)
    await (await peer.channel()).delete_queue(f"tg.{alice}.{group}")
    monkeypatch.setattr(queues, "_TRUSTED_S", 0.0)
    await relay.ensure_group_queue(alice, group)
    assert (await (await peer.channel()).inspect_queue(f"tg.{alice}.{group}")).messages == 0


def test_unused_queues_expire_and_commands_wait_for_ever() -> None:
    """Every run of a user's program has a task group: without an end, the broker's memory fills."""
    assert topology.queue_arguments("tg.a.b")["x-expires"] == 7 * 86_400_000
    assert topology.queue_arguments("u.tasks")["x-expires"] == 30 * 86_400_000
    for queue in ("e.commands", "results", "heartbeats", "rejected"):
        assert "x-expires" not in topology.queue_arguments(queue)


async def test_many_ask_for_the_same_queue_at_once(relay: RelayBroker) -> None:
    uep = new_id()
    await asyncio.gather(*(relay.ensure_uep_queues(uep) for _ in range(50)))
    assert await relay.consumer_count(uep) == 0


async def test_a_broker_that_lost_everything_is_furnished_again(broker_node: BrokerAddress) -> None:
    """Virtual host deleted and made anew, empty: exchanges, shared queues, consumers, a user endpoint's queue."""
    results: list[bytes] = []
    new = asyncio.Event()

    async def on_batch(batch: list[Incoming]) -> None:
        results.extend(incoming.body for incoming in batch)
        new.set()

    with temporary_vhost(broker_node) as address:
        relay = RelayBroker(address)
        await relay.open()
        consumer = relay.consume_results(on_batch)
        await consumer.wait_consuming()
        uep = new_id()
        await relay.ensure_uep_queues(uep)
        alice, group = new_id(), new_id()
        await relay.ensure_group_queue(alice, group)
        manage(broker_node, "DELETE", f"/vhosts/{address.vhost}")
        make_vhost(broker_node, address.vhost)
        async with asyncio.timeout(20):
            await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"t")])
            await relay.ensure_group_queue(alice, group)  # must look, not remember
            peer = BrokerConnection(address.amqp, name="peer")
            peer.open()
            assert [d.body for d in await take(peer, f"{uep}.tasks", 1)] == [b"t"]
            await peer.publisher().publish("results", f"{uep}.results", b"r")
            await new.wait()
            assert (await (await peer.channel()).inspect_queue(f"tg.{alice}.{group}")).messages == 0
        assert results == [b"r"]
        await consumer.close()
        await peer.close()
        await relay.close()


async def test_requests_during_an_outage_wait_for_its_end(broker: BrokerAddress) -> None:
    async with Proxy.before(broker.amqp.reveal()) as proxy:
        relay = RelayBroker(BrokerAddress(Secret(proxy.url(broker.amqp.reveal())), broker.management))
        await relay.open()
        uep = new_id()
        await proxy.refuse()
        proxy.cut()
        asked = [
            asyncio.create_task(relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"t")])),
            asyncio.create_task(relay.publish_command(new_id(), b"{}", "s")),
            asyncio.create_task(relay.ensure_group_queue(new_id(), new_id())),
        ]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in asked)
        await proxy.listen()
        await asyncio.wait_for(asyncio.gather(*asked), 15)
        assert (await relay.queue_facts(uep)).messages == 1
        await relay.close()
