"""Fixtures of this tier's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import broker, broker_node
from support.sdkrig import executor, small, small_client
from support.uep import Running, Site, site, user_endpoint

__all__ = ["broker", "broker_node", "executor", "small", "small_client"]


@pytest.fixture
def place(broker: BrokerAddress) -> Iterator[Site]:
    """The queues of one user endpoint, and the far side of them."""
    with site(broker.amqp.reveal()) as made:
        yield made


@pytest.fixture
def running(request: pytest.FixtureRequest, place: Site, tmp_path: Path) -> Iterator[Running]:
    """A user endpoint at `place`, by the TEMPLATE of the test's module."""
    with user_endpoint(place, tmp_path, request.module.TEMPLATE) as made:
        yield made
