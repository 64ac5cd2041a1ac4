"""The connection's life: comes back by itself, says so once, leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

import pytest

from mep.base.codes import Code
from mep.base.errors import ServiceError
from mep.base.secrets import Secret
from mep.broker import BrokerConnection, Channel, State
from mep.broker.backoff import Backoff
from mep.broker.loop import ThreadlessEventLoop
from mep.relay.brokeraddress import BrokerAddress
from support.proxy import Proxy


@pytest.fixture
async def proxy(broker: BrokerAddress) -> AsyncIterator[Proxy]:
    async with Proxy.before(broker.amqp.reveal()) as made:
        yield made


class States:
    """Collects the states of a connection; `reached` waits for one."""

    def __init__(self) -> None:
        self.seen: list[State] = []
        self._new = asyncio.Event()

    def __call__(self, state: State) -> None:
        self.seen.append(state)
        self._new.set()

    async def reached(self, name: str) -> State:
        async with asyncio.timeout(10):
            while not self.seen or self.seen[-1].state != name:
                self._new.clear()
                await self._new.wait()
        return self.seen[-1]


def quick(url: Secret, states: States | None = None) -> BrokerConnection:
    return BrokerConnection(url, name="test", on_state=states, backoff=Backoff(0.01, 0.05))


def test_our_loop_starts_no_thread(broker: BrokerAddress) -> None:
    """A process that forks must have one thread only, though asyncio resolves names in threads by default."""
    url = broker.amqp.reveal().replace("127.0.0.1", "localhost")
    threads = []

    async def use() -> None:
        connection = BrokerConnection(Secret(url), name="test")
        connection.open()
        await connection.wait_open(10)
        await connection.channel()
        threads.append(threading.active_count())
        await connection.close()

    before = threading.active_count()
    with asyncio.Runner(loop_factory=ThreadlessEventLoop) as runner:
        runner.run(use())
    assert threads == [before]


async def test_it_comes_back_and_tells_each_change_once(
    broker: BrokerAddress, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    states = States()
    connection = quick(Secret(proxy.url(broker.amqp.reveal())), states)
    with caplog.at_level(logging.INFO, logger="mep"):
        connection.open()
        await states.reached("connected")
        await proxy.refuse()
        proxy.cut()
        away = await states.reached("connecting")
        await asyncio.sleep(0.3)  # many tries
        await proxy.listen()
        await states.reached("connected")
        await connection.close()
    assert [state.state for state in states.seen] == ["connected", "connecting", "connected"]
    assert away.detail
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("mep.")]
    assert [line.split(" (")[0] for line in lines] == [
        "test: broker connected",
        "test: broker connecting",
        "test: broker connected",
    ]


async def test_a_broker_that_was_never_there_is_told_of(proxy: Proxy) -> None:
    await proxy.refuse()
    states = States()
    connection = quick(Secret(f"amqp://nobody:hush-hush@127.0.0.1:{proxy.port}/%2F"), states)
    connection.open()
    with pytest.raises(ServiceError) as caught:
        await connection.wait_open(0.2)
    assert caught.value.code is Code.BROKER_UNREACHABLE
    assert "refused" in caught.value.admin_text
    assert "hush-hush" not in f"{caught.value.admin_text}{states.seen}"
    await connection.close()


async def test_wrong_credentials_are_refused_not_unreachable(broker: BrokerAddress) -> None:
    password = broker.amqp.reveal().partition("@")[0].rpartition(":")[2]
    states = States()
    url = [Secret(broker.amqp.reveal().replace(password, "wrong"))]
    connection = BrokerConnection(lambda: url[0], name="test", on_state=states, backoff=Backoff(0.05, 0.1))
    connection.open()
    await states.reached("refused")
    with pytest.raises(ServiceError) as caught:
        await connection.wait_open(0.1)
    assert caught.value.code is Code.BROKER_REFUSED
    url[0] = broker.amqp  # fresh credentials are asked for at each try
    await states.reached("connected")
    await connection.close()
    assert [state.state for state in states.seen] == ["refused", "connected"]


async def test_an_unknown_vhost_is_refused(broker: BrokerAddress) -> None:
    states = States()
    connection = quick(Secret(broker.amqp.reveal() + "-other"), states)
    connection.open()
    assert "not found" in (await states.reached("refused")).detail
    await connection.close()


async def test_a_bad_url_is_told_of_and_does_not_raise_into_the_loop() -> None:
    states = States()
    connection = quick(Secret("amqp://user:secret@host:port-that-is-none/"), states)
    connection.open()
    state = await states.reached("connecting")
    assert "bad broker URL" in state.detail
    assert "secret" not in state.detail
    await connection.close()


@pytest.mark.parametrize("moment", ["while connecting", "while away", "while swallowed", "when open"])
async def test_close_leaves_no_task_no_timer_no_socket(broker: BrokerAddress, proxy: Proxy, moment: str) -> None:
    states = States()
    connection = quick(Secret(proxy.url(broker.amqp.reveal())), states)
    stumbles: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: stumbles.append(context))
    if moment == "while connecting":
        proxy.swallow()
    if moment == "while away":
        await proxy.refuse()
    connection.open()
    if moment == "while connecting":
        while not proxy.connections:
            await asyncio.sleep(0.01)
    elif moment == "while away":
        await states.reached("connecting")
    else:
        await states.reached("connected")
    if moment == "while swallowed":
        connection.publisher()
        proxy.swallow()
    async with asyncio.timeout(8):
        await connection.close()
    seen = list(states.seen)
    await asyncio.sleep(0.2)
    assert states.seen == seen
    assert connection._connection is None
    ours = {task for task in asyncio.all_tasks() if "pika" in repr(task) or "broker" in repr(task.get_coro())}
    assert not ours
    assert not stumbles


async def test_the_topology_is_prepared_before_anything_is_consumed(broker: BrokerAddress) -> None:
    prepared = []

    async def prepare(channel: Channel) -> None:
        await channel.declare_queue("made in time", arguments={})
        prepared.append(True)

    refused: list[str] = []
    connection = BrokerConnection(broker.amqp, name="test", prepare=prepare)
    consumer = connection.consume("made in time", lambda _delivery: None, on_refused=refused.append)
    connection.open()
    await asyncio.wait_for(consumer.wait_consuming(), 10)
    await connection.close()
    assert prepared == [True]
    assert refused == []


@pytest.mark.slow
async def test_a_frozen_broker_is_noticed(broker: BrokerAddress, proxy: Proxy) -> None:
    """Neither side closes the connection: only the missing heartbeats tell. 2 s here, 30 s in URLs we hand out."""
    states = States()
    connection = quick(Secret(proxy.url(broker.amqp.reveal()) + "?heartbeat=2"), states)
    connection.open()
    await states.reached("connected")
    proxy.swallow()
    async with asyncio.timeout(20):
        while states.seen[-1].state != "connecting":
            await asyncio.sleep(0.05)
    proxy.heal()
    proxy.cut()  # the tries that were swallowed half-way
    await states.reached("connected")
    await connection.close()
