"""The private broker node: its whole life, with real kills. Each start takes some 7 s of CPU, so there are few."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, ServiceError
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.broker import BrokerConnection, Delivery, State
from mep.relay import proc, rabbit, rabbitfiles, topology
from mep.relay.amqp import Incoming, OutgoingTask, RelayBroker
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.brokeradmin import BrokerAdmin
from mep.relay.rabbit import PrivateRabbit
from support import broker as broker_support
from support.wait import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_RUNNER = Path(broker_support.__file__).with_name("brokernode.py")


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mep-node-", dir="/var/tmp"))
    yield made
    for process in processes_under(made):  # of a test that failed
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(made)


def processes_under(place: Path) -> list[psutil.Process]:
    """Return everything that works in this directory: the node, its helpers, its name service."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(place):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def take(connection: BrokerConnection, queue: str, count: int) -> list[bytes]:
    got: list[bytes] = []
    enough = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        got.append(delivery.body)
        consumer.ack(delivery)
        if len(set(got)) >= count:
            enough.set()

    consumer = connection.consume(queue, on_delivery)
    await asyncio.wait_for(enough.wait(), 60)
    consumer.close()
    return got


async def test_the_life_of_a_node(place: Path) -> None:
    """Start; kill -9 under load: started again, nothing that was confirmed is lost; clean stop; start on a taken
    port: the data are there; an orphaned node is ended and taken over."""
    node = PrivateRabbit(place)
    address = await node.start()
    with pytest.raises(HostError) as caught:
        await PrivateRabbit(place).start()
    assert caught.value.code is Code.ALREADY_RUNNING
    for secret in ("password", "rabbitmq.conf", "home/.erlang.cookie"):
        path = place / "rabbitmq" / secret
        assert path.stat().st_mode & 0o077 == 0, f"{path.name} is readable by others"
    assert (place / "rabbitmq").stat().st_mode & 0o777 == 0o700

    relay = RelayBroker(address)
    await relay.open()
    await nothing_is_lost_by_a_kill(node, relay, address)
    await a_broker_without_memory_says_so(node, address)
    uep = new_id()
    await relay.publish_tasks(uep, [OutgoingTask(new_id(), new_id(), b"kept")])
    await relay.close()
    await node.stop()
    assert processes_under(place) == []

    with socket.create_server(("127.0.0.1", port_of(address))):
        node = PrivateRabbit(place)
        moved = await node.start()
    assert port_of(moved) != port_of(address)
    peer = BrokerConnection(moved.amqp, name="peer")
    peer.open()
    assert await take(peer, f"{uep}.tasks", 1) == [b"kept"]
    await peer.close()
    await an_orphan_is_taken_over(node, place)
    assert processes_under(place) == []


def port_of(address: BrokerAddress) -> int:
    port = urlsplit(address.amqp.reveal()).port
    assert port
    return port


async def nothing_is_lost_by_a_kill(node: PrivateRabbit, relay: RelayBroker, address: BrokerAddress) -> None:
    results: list[bytes] = []
    arrived = asyncio.Event()

    async def on_results(batch: list[Incoming]) -> None:
        results.extend(incoming.body for incoming in batch)
        arrived.set()

    def tasks(name: str, count: int) -> list[OutgoingTask]:
        return [OutgoingTask(new_id(), new_id(), f"{name}{n}".encode()) for n in range(count)]

    consumer = relay.consume_results(on_results)
    uep, late = new_id(), new_id()
    await relay.publish_tasks(uep, tasks("before", 300))
    await relay.publish_tasks(late, tasks("just declared", 1))
    first_pid = node.pid
    under_load = asyncio.create_task(relay.publish_tasks(uep, tasks("during", 3000)))
    await asyncio.sleep(0.05)
    os.kill(first_pid, signal.SIGKILL)
    await asyncio.sleep(0.2)
    admin = BrokerAdmin(address)
    account = asyncio.create_task(admin.ensure_user(topology.uep_grants(uep), Secret("x")))
    while_away = asyncio.create_task(relay.publish_tasks(uep, tasks("away", 1)))
    async with asyncio.timeout(60):
        await under_load
        await while_away
        await account
    admin.close()
    assert node.pid not in (0, first_pid)
    assert node.address == address, "the clients' URLs must stay true"

    peer = BrokerConnection(address.amqp, name="peer")
    peer.open()
    wanted = {
        task.body
        for name, count in (("before", 300), ("during", 3000), ("away", 1))
        for task in tasks(name, count)
    }
    assert set(await take(peer, f"{uep}.tasks", len(wanted))) == wanted
    assert await take(peer, f"{late}.tasks", 1) == [b"just declared0"]
    await peer.publisher().publish("results", f"{uep}.results", b"r", properties={"delivery_mode": 2})
    await asyncio.wait_for(arrived.wait(), 10)
    assert results == [b"r"]
    await consumer.close()
    await peer.close()


async def a_broker_without_memory_says_so(node: PrivateRabbit, address: BrokerAddress) -> None:
    """It takes no messages then, and answers nothing: the state must tell, and what waits goes out in the end."""
    states: list[State] = []
    connection = BrokerConnection(address.amqp, name="publisher", on_state=states.append)
    connection.open()
    await connection.wait_open(10)
    assert node._ports is not None
    environment = node._files.environment(node._ports, notify="")

    async def set_watermark(*value: str) -> None:
        ctl = rabbitfiles.find_programs().server.with_name("rabbitmqctl")
        command = (str(ctl), "-n", rabbitfiles.NODE_NAME, "set_vm_memory_high_watermark", *value)
        program = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        assert await program.wait() == 0

    await set_watermark("absolute", "1")
    waiting = connection.publisher().publish("heartbeats", "x.heartbeats", b"x")
    async with asyncio.timeout(10):
        while "takes no messages" not in states[-1].detail:
            await asyncio.sleep(0.02)
    assert not waiting.done()
    await set_watermark("0.4")
    await asyncio.wait_for(waiting, 10)
    assert (states[-1].state, states[-1].detail) == ("connected", "")
    await connection.close()


async def an_orphan_is_taken_over(node: PrivateRabbit, place: Path) -> None:
    """What a relay leaves whose parent-death signal did not work: the next start ends it."""
    orphan = node.pid
    node._keeper.cancel()  # type: ignore[union-attr]
    os.close(node._lock_fd)
    successor = PrivateRabbit(place)
    await successor.start()
    assert not psutil.pid_exists(orphan)
    successor._keeper.cancel()  # type: ignore[union-attr]
    successor._node.kill_session()  # type: ignore[union-attr]
    successor._keeper = None
    await successor.stop()


@pytest.mark.parametrize("user", ["nobody", "root"])
def test_a_killed_relay_takes_its_node_with_it_and_touches_nothing_else(place: Path, user: str) -> None:
    """Whoever runs it: kill -9 of the process that started the node ends node, helpers and name service."""
    account: dict[str, object] = {}
    if user == "nobody" and os.getuid() == 0:
        os.chown(place, 65534, 65534)
        account = {"user": 65534, "group": 65534, "extra_groups": []}
    elif os.getuid() != 0 and user == "root":
        pytest.skip("not root: the other case has shown it for this user")
    home = place / "home-of-the-user"
    home.mkdir()
    system = [path for path in (Path("/var/lib/rabbitmq"), Path("/var/log/rabbitmq")) if path.exists()]
    before = [sorted((str(p), p.stat().st_mtime_ns) for p in path.rglob("*")) for path in system]
    runner = subprocess.Popen(
        [sys.executable, shutil.copy(_RUNNER, place), str(place / "data")],  # the checkout may be closed to `user`
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HOME": str(home)},
        cwd="/",
        **account,  # type: ignore[call-overload]
    )
    with runner:
        assert json.loads(runner.stdout.readline())["amqp"].startswith("amqp://mep:")
        processes = processes_under(place)
        names = {process.name() for process in processes}
        assert {"beam.smp", "epmd"} <= names, names
        ports = {c.laddr for p in processes for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
        assert {address.ip for address in ports} <= {"127.0.0.1", "::1"}
        runner.kill()
    until(lambda: not processes_under(place), "the node ends with its parent", timeout_s=2)
    assert list(home.iterdir()) == []
    assert before == [sorted((str(p), p.stat().st_mtime_ns) for p in path.rglob("*")) for path in system]


async def test_a_missing_program_names_the_package(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitfiles, "_server_candidates", list)
    with pytest.raises(ServiceError) as caught:
        await PrivateRabbit(place).start()
    assert caught.value.code is Code.BROKER_UNREACHABLE
    assert "apt install rabbitmq-server" in caught.value.user_text
    assert "dnf install rabbitmq-server" in caught.value.user_text


async def test_a_node_that_does_not_start_says_its_last_words(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = place / "rabbitmq-server"
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 3\n")
    broken.chmod(0o755)
    epmd = rabbitfiles.find_programs().epmd
    monkeypatch.setattr(rabbit, "find_programs", lambda: rabbitfiles.Programs(broken, epmd))
    node = PrivateRabbit(place)
    with pytest.raises(ServiceError) as caught:
        await node.start()
    assert "exit status 3" in caught.value.user_text
    assert "the disk is on fire" in caught.value.user_text
    assert processes_under(place) == []


async def test_a_node_that_is_never_ready_is_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = place / "rabbitmq-server"
    silent.write_text("#!/bin/sh\nsleep 1000 & wait\n")
    silent.chmod(0o755)
    epmd = rabbitfiles.find_programs().epmd
    monkeypatch.setattr(rabbit, "find_programs", lambda: rabbitfiles.Programs(silent, epmd))
    with pytest.raises(ServiceError, match="was not ready after 1 s"):
        await PrivateRabbit(place).start(timeout_s=1)
    until(lambda: not processes_under(place), "its children end too", timeout_s=2)


async def test_another_process_with_the_recorded_pid_is_left_alone(place: Path) -> None:
    """Pids are used again: only pid and start time together name the node of an earlier relay."""
    bystander = subprocess.Popen(["/bin/sleep", "60"], start_new_session=True)
    try:
        key = proc.ProcessKey.of(bystander.pid)
        other = proc.ProcessKey(key.pid, key.start_ticks - 1, key.boot_id)
        before_boot = proc.ProcessKey(key.pid, key.start_ticks, "another boot")
        assert key.is_alive()
        assert not other.is_alive()
        assert not before_boot.is_alive()
        await proc.kill_session(other)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_program_that_is_tied_never_starts_without_its_parent() -> None:
    """The parent may end between fork and prctl: then there will be no signal."""
    ended = subprocess.run(
        [sys.executable, "-I", "-S", rabbit._TIED, "1", "/bin/echo", "alive"], capture_output=True, check=False
    )
    assert ended.returncode != 0
    assert b"alive" not in ended.stdout
