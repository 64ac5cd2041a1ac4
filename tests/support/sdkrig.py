"""What the SDK's tests share: the small relay on a real broker, a client and executors of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mep import Client, ComputeFuture, Executor
from mep.base.ids import new_id
from mep.relay.brokeraddress import BrokerAddress
from support.smallrelay import SmallRelay
from support.wait import until

SOON_S = 10.0
MakeExecutor = Callable[..., Executor]


@pytest.fixture
def small(broker: BrokerAddress) -> Iterator[SmallRelay]:
    with SmallRelay(broker.amqp.reveal()) as running:
        yield running


@pytest.fixture
def small_client(small: SmallRelay) -> Iterator[Client]:
    made = Client(relay_url=small.url, token="t", retry_s=3.0)
    yield made
    made.close()


@pytest.fixture
def executor(small_client: Client) -> Iterator[MakeExecutor]:
    made: list[Executor] = []

    def make(**options: Any) -> Executor:
        made.append(Executor(**{"endpoint_id": new_id(), "client": small_client, **options}))
        return made[-1]

    yield make
    for one in made:
        one.shutdown(cancel_futures=True)


def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


def fail_with(text: str) -> None:
    """Raise what a wrong argument would."""
    raise ValueError(text)


def accepted(future: ComputeFuture) -> str:
    """Wait until the relay has the task; return its id."""
    return until(lambda: future.task_id or "", "the relay accepts the task")
