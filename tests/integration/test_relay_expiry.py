"""Tasks do not wait for ever for an endpoint that is away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing

import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import temporary_vhost
from support.fake_endpoint import Http
from support.fleet import MakeEndpoint, alice, people, site, stream, task_ids
from support.relay import Relay
from support.rigs import make_open_dir

__all__ = ["alice", "people", "site"]


@pytest.fixture(scope="module")
def quick_relay(broker_node: BrokerAddress) -> Iterator[Relay]:
    """A relay where tasks live for a second."""
    folder = make_open_dir()
    with temporary_vhost(broker_node) as broker:
        running = Relay(folder / "relay", broker, ["--task-ttl", "1"]).start()
        try:
            yield running
        finally:
            running.stop()
            shutil.rmtree(folder, ignore_errors=True)


def test_a_task_nobody_takes_ends_with_task_expired(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    endpoint.beat(0)
    submitted = alice.submit(endpoint.id, alice.function())
    with closing(stream(alice, submitted)) as reader:
        result = reader.result()
    assert result is not None
    assert result.error_details is not None
    assert result.error_details.code == "TASK_EXPIRED"
    assert "offline" in result.data
    assert alice.task(task_ids(submitted)[0])["status"] == "failed"
    endpoint.beat()
    assert endpoint.command(wait_s=0.5) is None, "nothing is left to start for"


def test_a_task_that_is_being_worked_on_does_not_expire(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as uep, closing(stream(alice, submitted)) as reader:
        task = uep.take()
        assert reader.result(wait_s=2.0) is None
        uep.answer(task.task_id)
        result = reader.result()
    assert result is not None
    assert result.error_details is None
