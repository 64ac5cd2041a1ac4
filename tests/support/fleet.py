"""A relay with short times, and fake endpoints on it: fixtures for the relay's tests. Import what a file uses."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import temporary_vhost
from support.fake_endpoint import FakeEndpoint, Http, Reader
from support.relay import Relay
from support.rigs import make_open_dir

MakeEndpoint = Callable[..., FakeEndpoint]
People = Callable[[str], Http]

START_TIMEOUT_S = 1.5
LOCK_S = 1.0


@pytest.fixture(scope="module")
def quick_relay(broker_node: BrokerAddress) -> Iterator[Relay]:
    """A relay that loses patience quickly, for the tests of one file."""
    yield from make_quick_relay(broker_node)


def make_quick_relay(broker_node: BrokerAddress) -> Iterator[Relay]:
    """Yield a running relay once, and clear it away; the body of fixtures."""
    folder = make_open_dir()
    options = ["--start-timeout", str(START_TIMEOUT_S), "--lock", str(LOCK_S)]
    with temporary_vhost(broker_node) as broker:
        running = Relay(folder / "relay", broker, options).start()
        try:
            yield running
        finally:
            running.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def people(quick_relay: Relay) -> Iterator[People]:
    """Call it with an identity to get that person's HTTP client."""
    made: list[Http] = []

    def person(identity: str) -> Http:
        made.append(Http(quick_relay.url, quick_relay.token(identity)))
        return made[-1]

    yield person
    for one in made:
        one.close()


@pytest.fixture
def alice(people: People) -> Http:
    return people("alice@example.org")


@pytest.fixture
def site(people: People) -> Iterator[MakeEndpoint]:
    """Call it to get a registered endpoint that is online, owned by site@example.org."""
    made: list[FakeEndpoint] = []

    def make(*, period_s: float = 30.0, **fields: Any) -> FakeEndpoint:
        endpoint = FakeEndpoint(people("site@example.org")).register(**fields)
        made.append(endpoint)
        return endpoint.connect(period_s=period_s)

    yield make
    for endpoint in made:
        endpoint.close()


def stream(person: Http, submitted: dict[str, Any]) -> Reader:
    """Return the result stream of a submit's group."""
    return Reader(person, submitted["task_group_id"])


def task_ids(submitted: dict[str, Any]) -> list[str]:
    """Return a submit's task ids in order."""
    return [task for some in submitted["tasks"].values() for task in some]


@contextmanager
def frozen(relay: Relay) -> Iterator[None]:
    """Stop the relay's process for a moment: what is sent to it arrives together when it goes on."""
    assert relay.program is not None
    with _stopped(relay.program.pid):
        yield


@contextmanager
def broker_frozen(node: BrokerAddress) -> Iterator[None]:
    """Stop the broker for a moment: it is connected, and does nothing."""
    port = urlsplit(node.amqp.reveal()).port
    (pid,) = {
        found.pid
        for found in psutil.net_connections("tcp4")
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
    }
    assert pid
    with _stopped(pid):
        yield


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
