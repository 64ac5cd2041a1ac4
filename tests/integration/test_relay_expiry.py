"""Tasks do not wait for ever for an endpoint that is away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import bindparam, update

from mep.relay.brokeraddress import BrokerAddress
from mep.relay.store.engine import default_url, open_writer
from mep.relay.store.schema import ueps
from support.broker import temporary_vhost
from support.fake_endpoint import FakeEndpoint, FakeUep, Http
from support.fleet import MakeEndpoint, alice, people, site, stream, task_ids
from support.relay import Relay
from support.rigs import make_open_dir
from support.wait import until

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


def vanish(endpoint: FakeEndpoint, uep: FakeUep) -> None:
    """End the user endpoint, then the endpoint: both for good."""
    uep.close()
    endpoint.notice(uep.id, active=False, ended={"code": "UEP_DIED", "text": ""}, heartbeat_period=30)
    endpoint.beat(0)


def code_of(person: Http, task_id: str) -> str:
    until(lambda: person.task(task_id)["status"] == "failed", "the task has its end")
    return str(person.task(task_id)["exception"]).partition(":")[0]


def test_a_task_that_was_taken_and_never_came_back_is_said_to_have_perhaps_begun(
    site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    (task_id,) = task_ids(submitted)
    uep = endpoint.start_uep()
    uep.take()
    vanish(endpoint, uep)
    with closing(stream(alice, submitted)) as reader:
        result = reader.result()
        assert result is not None
        assert result.error_details is not None
        assert result.error_details.code == "TASK_LOST"
        assert "may have begun" in result.data
        with FakeUep(uep.creds) as late:
            late.answer(task_id)
            assert reader.result(wait_s=0.5) is None, "one end is enough"
    assert code_of(alice, task_id) == "TASK_LOST"


def test_when_a_user_endpoint_was_last_there_is_known_from_its_end(
    site: MakeEndpoint, alice: Http, quick_relay: Relay
) -> None:
    endpoint, function = site(), alice.function()
    first = alice.submit(endpoint.id, function)
    uep = endpoint.start_uep()
    uep.answer(uep.take().task_id)
    until(lambda: alice.task(task_ids(first)[0])["status"] == "success", "it was up")
    long_ago(quick_relay, uep.id)
    taken = alice.submit(endpoint.id, function)
    uep.take()
    vanish(endpoint, uep)
    assert code_of(alice, task_ids(taken)[0]) == "TASK_LOST"
    long_ago(quick_relay, uep.id)
    never = alice.submit(endpoint.id, function)
    assert code_of(alice, task_ids(never)[0]) == "TASK_EXPIRED"


def long_ago(relay: Relay, uep_id: str) -> None:
    """Let an hour pass since the relay wrote down that it was there."""
    engine = open_writer(default_url(relay.data_dir))

    def moved() -> bool:
        with engine.begin() as connection:
            return connection.execute(_moved, {"uep": uep_id, "at": time.time() - 3600}).rowcount == 1

    until(moved, "the relay has written it down")
    engine.dispose()


_moved = update(ueps).where(ueps.c.id == bindparam("uep"), ueps.c.last_seen > 0).values(last_seen=bindparam("at"))
