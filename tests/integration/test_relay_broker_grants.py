"""What each broker account can do, and that it can do nothing else: asked of a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker

from mep.base.errors import ServiceError
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.relay import topology
from mep.relay.amqp import OutgoingTask, RelayBroker
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.brokeradmin import BrokerAdmin
from mep.relay.topology import Grants

PASSWORD = Secret("p@ss/w:rd %2F")  # must survive being put into a URL
ENDPOINT, OTHER_ENDPOINT, OLD_ENDPOINT, UEP, OTHER_UEP, ALICE, BOB, GROUP = (new_id() for _ in range(8))


@dataclass
class World:
    """A broker with two of everything."""

    address: BrokerAddress
    admin: BrokerAdmin
    relay: RelayBroker

    def act(self, grants: Grants, action: Callable[[BlockingChannel], Any]) -> Any:
        """Do `action` as that user, on a new connection; return its result, raise what the broker says."""
        url = self.address.client_url(grants.user, PASSWORD).reveal()
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            return action(channel)

    async def may(self, grants: Grants, action: Callable[[BlockingChannel], Any]) -> Any:
        return await asyncio.to_thread(self.act, grants, action)

    async def may_not(self, grants: Grants, action: Callable[[BlockingChannel], Any]) -> None:
        """Prove that the broker refuses it: 403, and nothing else."""
        with pytest.raises(ChannelClosedByBroker) as caught:
            await asyncio.to_thread(self.act, grants, action)
        assert caught.value.reply_code == 403


@pytest.fixture
async def world(broker: BrokerAddress) -> AsyncIterator[World]:
    admin, relay = BrokerAdmin(broker), RelayBroker(broker)
    await relay.open()
    for endpoint in (ENDPOINT, OTHER_ENDPOINT, OLD_ENDPOINT):
        await relay.ensure_endpoint_queues(endpoint)
    for uep in (UEP, OTHER_UEP, OLD_ENDPOINT):
        await relay.ensure_uep_queues(uep)
        await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"task of " + uep.encode())])
    for identity in (ALICE, BOB):
        await relay.ensure_group_queue(identity, GROUP)
    everybody = [role() for role in ROLES]
    for grants in everybody:
        await admin.ensure_user(grants, PASSWORD)
    yield World(broker, admin, relay)
    for grants in everybody:
        await admin.delete_user(grants.user)
    await relay.close()
    admin.close()
    await asyncio.get_running_loop().shutdown_default_executor()


def uep_grants() -> Grants:
    return topology.uep_grants(UEP)


def endpoint_grants() -> Grants:
    return topology.endpoint_grants(ENDPOINT)


def sdk_grants() -> Grants:
    return topology.sdk_grants(ALICE)


def old_endpoint_grants() -> Grants:
    return topology.single_user_grants(OLD_ENDPOINT)


ROLES = (uep_grants, endpoint_grants, sdk_grants, old_endpoint_grants)


def publish(exchange: str, key: str) -> Callable[[BlockingChannel], Any]:
    return lambda channel: channel.basic_publish(exchange, key, b"x", mandatory=True)


def call(method: str, *args: str) -> Callable[[BlockingChannel], Any]:
    return lambda channel: getattr(channel, method)(*args)


def get(queue: str) -> Callable[[BlockingChannel], Any]:
    return lambda channel: channel.basic_get(queue)


def consume(queue: str, *, exclusive: bool) -> Callable[[BlockingChannel], Any]:
    return lambda channel: channel.basic_consume(queue, lambda *_: None, exclusive=exclusive)


async def test_a_user_endpoint_can_do_its_work(world: World) -> None:
    me = uep_grants()
    await world.may(me, consume(f"{UEP}.tasks", exclusive=True))
    _, _, body = await world.may(me, get(f"{UEP}.tasks"))
    assert body == b"task of " + UEP.encode()
    await world.may(me, publish("results", f"{UEP}.results"))
    await world.may(me, publish("heartbeats", f"{UEP}.heartbeats"))


async def test_an_endpoint_can_do_its_work(world: World) -> None:
    await world.may(endpoint_grants(), consume(f"{ENDPOINT}.commands", exclusive=False))
    await world.may(endpoint_grants(), publish("heartbeats", f"{ENDPOINT}.heartbeats"))


async def test_a_submitter_can_read_results(world: World) -> None:
    await world.relay.publish_results(ALICE, GROUP, [b"result"])
    _, properties, body = await world.may(sdk_grants(), get(topology.group_queue(ALICE, GROUP)))
    assert body == b"result"
    assert properties.timestamp


@pytest.mark.parametrize("role", ROLES)
async def test_the_passive_declares_of_stock_peers_work(world: World, role: Callable[[], Grants]) -> None:
    """They say `direct` of a topic exchange, and the broker does not mind."""

    def declare(channel: BlockingChannel) -> None:
        for exchange, queue in (("results", "results"), ("heartbeats", "heartbeats")):
            channel.exchange_declare(exchange, exchange_type="direct", passive=True)
            channel.queue_declare(queue, passive=True)

    await world.may(role(), declare)


FOREIGN = [
    f"{UEP}.tasks",
    f"{OTHER_UEP}.tasks",
    f"{ENDPOINT}.commands",
    f"{OTHER_ENDPOINT}.commands",
    f"{OLD_ENDPOINT}.commands",
    f"{OLD_ENDPOINT}.tasks",
    "results",
    "heartbeats",
    "rejected",
    topology.group_queue(ALICE, GROUP),
    topology.group_queue(BOB, GROUP),
]
OWN = {
    "uep_grants": {f"{UEP}.tasks"},
    "endpoint_grants": {f"{ENDPOINT}.commands"},
    "sdk_grants": {topology.group_queue(ALICE, GROUP)},
    "old_endpoint_grants": {f"{OLD_ENDPOINT}.commands", f"{OLD_ENDPOINT}.tasks"},
}


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_reads_purges_or_deletes_what_is_not_theirs(world: World, role: Callable[[], Grants]) -> None:
    for queue in FOREIGN:
        if queue not in OWN[role.__name__]:
            await world.may_not(role(), get(queue))
            await world.may_not(role(), consume(queue, exclusive=False))
            await world.may_not(role(), call("queue_purge", queue))
        await world.may_not(role(), call("queue_delete", queue))
    for exchange in topology.EXCHANGES:
        await world.may_not(role(), call("exchange_delete", exchange))
    assert await world.relay.purge_tasks(OTHER_UEP) == 1


_ALLOWED = {
    "uep_grants": {("results", f"{UEP}.results"), ("heartbeats", f"{UEP}.heartbeats")},
    "endpoint_grants": {("heartbeats", f"{ENDPOINT}.heartbeats")},
    "sdk_grants": set(),
    "old_endpoint_grants": {(kind, f"{OLD_ENDPOINT}.{kind}") for kind in ("results", "heartbeats")},
}


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_publishes_as_another_or_where_only_the_relay_does(
    world: World, role: Callable[[], Grants]
) -> None:
    ids = (UEP, OTHER_UEP, ENDPOINT, OTHER_ENDPOINT, OLD_ENDPOINT)
    wanted = {(exchange, f"{i}.{exchange}") for exchange in topology.EXCHANGES for i in ids}
    wanted |= {("", queue) for queue in FOREIGN}  # the default exchange reaches any queue
    wanted |= {("amq.topic", "x"), ("amq.direct", "x"), ("amq.fanout", "x")}
    # a regular expression that is not anchored, or whose dots are not escaped, would let these pass
    wanted |= {
        ("heartbeats", key) for key in (f"{ENDPOINT}xheartbeats", f"{UEP}.heartbeats.x", f"x{UEP}.heartbeats")
    }
    wanted |= {("results", key) for key in (f"{UEP}xresults", f"{UEP}.results.x", f"{OTHER_UEP}.{UEP}.results")}
    for exchange, key in sorted(wanted - _ALLOWED[role.__name__]):
        await world.may_not(role(), publish(exchange, key))


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_declares_or_binds(world: World, role: Callable[[], Grants]) -> None:
    own = min(OWN[role.__name__])
    await world.may_not(role(), call("queue_declare", "new"))
    await world.may_not(role(), lambda channel: channel.queue_declare("", exclusive=True))
    await world.may_not(role(), call("exchange_declare", "new", "fanout"))
    for exchange in topology.EXCHANGES:
        await world.may_not(role(), call("queue_bind", own, exchange, "#"))
        await world.may_not(role(), call("queue_unbind", own, exchange, own))
    await world.may_not(role(), call("exchange_bind", "results", "tasks", "#"))
    await world.may_not(role(), call("exchange_bind", "heartbeats", "results", "#"))


@pytest.mark.parametrize("role", ROLES)
async def test_the_management_api_is_closed_to_clients(world: World, role: Callable[[], Grants]) -> None:
    management = world.address.management.reveal()
    where = management.rpartition("@")[2]
    mine = BrokerAdmin(BrokerAddress(world.address.amqp, Secret(f"http://{role().user}:x@{where}")))
    with pytest.raises(ServiceError, match="refused"):
        await mine.check()
    mine.close()


async def test_the_right_password_is_needed(world: World) -> None:
    url = world.address.client_url(uep_grants().user, Secret("wrong")).reveal()
    with pytest.raises(AMQPConnectionError):
        await asyncio.to_thread(lambda: pika.BlockingConnection(pika.URLParameters(url)))


async def test_making_a_user_again_keeps_its_connections(world: World) -> None:
    """A repeated registration or start command must not throw a working endpoint out."""
    url = world.address.client_url(uep_grants().user, PASSWORD).reveal()
    connection = await asyncio.to_thread(lambda: pika.BlockingConnection(pika.URLParameters(url)))
    await world.admin.ensure_user(uep_grants(), PASSWORD)
    await asyncio.to_thread(connection.sleep, 0.5)
    channel = await asyncio.to_thread(connection.channel)
    await asyncio.to_thread(channel.basic_get, f"{UEP}.tasks")
    await asyncio.to_thread(connection.close)


async def test_a_deleted_user_is_thrown_out_at_once(world: World) -> None:
    url = world.address.client_url(uep_grants().user, PASSWORD).reveal()
    connection = await asyncio.to_thread(lambda: pika.BlockingConnection(pika.URLParameters(url)))
    assert await world.admin.delete_user(uep_grants().user)
    with pytest.raises(ConnectionClosedByBroker) as caught:
        await asyncio.to_thread(connection.sleep, 5)
    assert caught.value.reply_code == 320
    assert not await world.admin.delete_user(uep_grants().user)


async def test_a_revoked_and_remade_user_needs_the_new_password(world: World) -> None:
    old = world.address.client_url(uep_grants().user, PASSWORD).reveal()
    connection = await asyncio.to_thread(lambda: pika.BlockingConnection(pika.URLParameters(old)))
    await world.admin.delete_user(uep_grants().user)
    await world.admin.ensure_user(uep_grants(), Secret("next"))
    with pytest.raises(ConnectionClosedByBroker):
        await asyncio.to_thread(connection.sleep, 5)
    with pytest.raises(AMQPConnectionError):
        await asyncio.to_thread(lambda: pika.BlockingConnection(pika.URLParameters(old)))
