"""Results of high-assurance endpoints are fetched, not pushed: no queue that an SDK reads has anything of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from mep.relay.store.engine import default_url, open_writer
from mep.relay.store.tasks import Parked, park
from mep.wire import envelope
from mep.wire.envelope import ErrorDetails, Result
from support.fake_endpoint import FakeUep, Http, submission
from support.fleet import MakeEndpoint, People, alice, people, quick_relay, site, stream, task_ids
from support.relay import Relay
from support.sealing import SEALS, OpeningReader, SealingEndpoint
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]

MARKED = {"high_assurance": True}


@pytest.fixture
def sealing(people: People) -> Iterator[SealingEndpoint]:
    endpoint = SealingEndpoint(people("site@example.org")).register(high_assurance=True)
    endpoint.connect()
    yield endpoint
    endpoint.close()


def pushed(person: Http, submitted: dict[str, Any], count: int = 1, *, marked: bool = True) -> set[str]:
    """Return the tasks of which the group's queue tells; of their ends it must tell nothing."""
    with closing(stream(person, submitted)) as reader:
        found = set()
        for _ in range(count):
            result = reader.result()
            assert result is not None
            assert result == Result(task_id=result.task_id, data="")
            assert (reader.properties.headers or {}) == (MARKED if marked else {})
            found.add(result.task_id)
        assert reader.result(wait_s=0.2) is None
    return found


def ended(person: Http, task_id: str) -> dict[str, Any]:
    until(lambda: person.task(task_id)["status"] != "running", "it has its end")
    return person.task(task_id)


def test_stock_clients_hear_only_that_there_is_a_result_and_fetch_it(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site(high_assurance=True)
    submitted = alice.submit(endpoint.id, alice.function(), "1\na1\nb", "1\nc1\nd")
    good, bad = task_ids(submitted)
    with endpoint.start_uep() as uep:
        uep.answer(good, "00\nPLANTED\n")
        uep.answer(bad, "PLANTED traceback", error="RemoteExecutionError")
        assert pushed(alice, submitted, 2) == {good, bad}
    assert alice.task(good)["result"] == "00\nPLANTED\n"
    assert alice.task(bad)["exception"] == "PLANTED traceback"


def test_sealed_it_is_the_same_and_no_header_says_so(sealing: SealingEndpoint, alice: Http) -> None:
    path, body = f"/v3/endpoints/{sealing.id}/submit", submission(alice.function())
    submitted = alice.ok("POST", path, json=body, headers=SEALS)
    (task_id,) = task_ids(submitted)
    with sealing.start_sealing() as uep:
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "PLANTED"))
        with closing(OpeningReader(alice, submitted["task_group_id"])) as reader:
            assert reader.result() == Result(task_id=task_id, data="")
            assert not (reader.properties and reader.properties.headers)
    assert ended(alice, task_id)["result"] == "PLANTED"


def test_what_the_relay_says_of_a_task_is_fetched_too(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site(high_assurance=True)
    submitted = alice.submit(endpoint.id, alice.function())
    command = endpoint.command()
    assert command is not None
    endpoint.notice(command.uep_id, error="PLANTED line of a template", error_code="CONFIG_INVALID")
    (task_id,) = task_ids(submitted)
    assert pushed(alice, submitted) == {task_id}
    assert "PLANTED" in alice.task(task_id)["exception"]


def test_results_stay_so_after_their_endpoint_is_deleted(sealing: SealingEndpoint, alice: Http) -> None:
    """A stock client joins the group: what waited in its queue is put there anew."""
    path, body = f"/v3/endpoints/{sealing.id}/submit", submission(alice.function(), "1\na1\nb", "1\nc1\nd")
    submitted = alice.ok("POST", path, json=body, headers=SEALS)
    first, second = task_ids(submitted)
    with sealing.start_sealing() as uep:
        uep.answer_raw(uep.sealed_result(first, "PLANTED"))
        assert ended(alice, first)["result"] == "PLANTED"
        sealing.owner.ok("DELETE", f"/v2/endpoints/{sealing.id}")
    assert "NOT_FOUND" in ended(alice, second)["exception"]
    alice.ok("GET", f"/v2/taskgroup/{submitted['task_group_id']}")
    assert pushed(alice, submitted, 2) == {first, second}


def test_an_endpoint_that_becomes_so_later_pushes_no_result_of_before(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as uep:
        task_id = uep.take().task_id
        endpoint.register(high_assurance=True)
        uep.answer(task_id, "PLANTED")
        assert pushed(alice, submitted) == {task_id}


def test_a_result_that_is_given_again_or_was_parked_is_not_pushed_either(
    site: MakeEndpoint, alice: Http, quick_relay: Relay
) -> None:
    endpoint = site(high_assurance=True)
    submitted = alice.submit(endpoint.id, alice.function())
    (task_id,) = task_ids(submitted)
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id, "PLANTED")
        assert pushed(alice, submitted) == {task_id}
        give_again(alice, quick_relay, submitted, uep)
        assert pushed(alice, submitted) == {task_id}


def give_again(person: Http, relay: Relay, submitted: dict[str, Any], uep: FakeUep) -> None:
    """Leave an end of the task in the outbox of a relay that dies."""
    owner = person.ok("GET", "/v2/get_amqp_result_connection_url")["queue_prefix"].split(".")[1]
    details = ErrorDetails(code="TASK_LOST", user_message="PLANTED")
    (task_id,) = task_ids(submitted)
    body = envelope.encode(Result(task_id=task_id, data="PLANTED", error_details=details))
    relay.kill()
    engine = open_writer(default_url(relay.data_dir))
    target = f"{owner}/{submitted['task_group_id']}"
    with engine.begin() as connection:
        park(connection, [Parked(kind="result", target=target, headers="{}", body=body)])
    engine.dispose()
    relay.outlives_test = True
    relay.start()
