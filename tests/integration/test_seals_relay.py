"""A relay with endpoints and SDKs that seal, and with stock ones beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.wire import envelope, seal
from mep.wire.envelope import Result, StatusReport
from mep.wire.seal import Sealer
from support.fake_endpoint import Http, submission
from support.fleet import LOCK_S, People, alice, people, quick_relay, site, stream, task_ids
from support.relay import Relay
from support.sealing import SEALS, OpeningReader, SealingEndpoint
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]

MakeSealing = Callable[[], SealingEndpoint]
PAYLOAD = "1\na1\nPLANTED"


@pytest.fixture
def sealing(people: People) -> Iterator[MakeSealing]:
    """Call it to get a registered endpoint that seals and is online."""
    made: list[SealingEndpoint] = []

    def make() -> SealingEndpoint:
        endpoint = SealingEndpoint(people("site@example.org")).register()
        made.append(endpoint)
        endpoint.connect()
        return endpoint

    yield make
    for endpoint in made:
        endpoint.close()


def submit(person: Http, endpoint_id: str, **fields: Any) -> dict[str, Any]:
    """Submit as our SDK does."""
    path = f"/v3/endpoints/{endpoint_id}/submit"
    body = submission(person.function(), PAYLOAD, **fields)
    return dict(person.ok("POST", path, json=body, headers=SEALS))


def status(person: Http, task_id: str) -> str:
    return str(person.task(task_id)["status"])


def test_all_that_passes_is_sealed_and_says_nothing_in_headers(sealing: MakeSealing, alice: Http) -> None:
    endpoint = sealing()
    submitted = submit(alice, endpoint.id, resource_specification={"n": 1}, result_serializers=["a.B"])
    (task_id,) = task_ids(submitted)
    with endpoint.start_sealing() as uep:
        task = uep.take_sealed()
        assert (task.task_id, task.resources, task.serializers) == (task_id, {"n": 1}, ["a.B"])
        assert task.buffer.endswith(PAYLOAD)
        assert not uep.properties.headers
        uep.answer_raw(uep.sealed_result(task_id, "answer"))
        with closing(OpeningReader(alice, submitted["task_group_id"])) as reader:
            result = reader.result()
    assert result is not None
    assert (result.task_id, result.data) == (task_id, "answer")


def test_stock_parts_see_the_stock_form_beside_it(site: Any, sealing: MakeSealing, alice: Http) -> None:
    stock, ours = site(), sealing()
    assert "seal_key" not in stock.answer["mep"]
    assert "seal_key" not in alice.ok("GET", "/v2/get_amqp_result_connection_url")
    submitted = alice.submit(ours.id, alice.function())
    with ours.start_sealing() as uep, closing(stream(alice, submitted)) as reader:
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "for a stock SDK"))
        result = reader.result()
        assert result is not None
        assert result.data == "for a stock SDK"
    submitted = submit(alice, stock.id)
    command = stock.command()
    assert "seal_key" not in command.document["kwargs"]
    assert command.properties.headers["mep-signature"]
    assert submitted


def test_results_that_the_user_endpoint_did_not_seal_are_not_believed(sealing: MakeSealing, alice: Http) -> None:
    endpoint = sealing()
    submitted = submit(alice, endpoint.id)
    (task_id,) = task_ids(submitted)
    with endpoint.start_sealing() as uep:
        uep.take_sealed()
        forged = envelope.encode(Result(task_id=task_id, data="forged"))
        for body in (
            forged,
            Sealer(uep.key, seal.TASK, uep.id).seal(forged),
            Sealer(uep.key, seal.RESULT, new_id()).seal(forged),
            Sealer(Secret("00" * 32), seal.RESULT, uep.id).seal(forged),
            seal.VERSION + b"garbage",
        ):
            uep.answer_raw(body)
        uep.answer_raw(uep.sealed_result(task_id, "true"))
        with closing(OpeningReader(alice, submitted["task_group_id"])) as reader:
            result = reader.result()
            assert result is not None
            assert result.data == "true"
    assert alice.task(task_id)["result"] == "true"


def test_reports_that_are_forged_or_recorded_change_nothing(
    sealing: MakeSealing, alice: Http, quick_relay: Relay
) -> None:
    endpoint = sealing()
    submitted = submit(alice, endpoint.id)
    (task_id,) = task_ids(submitted)
    first = endpoint.start_sealing()
    goodbye = first.sealed_report(active=False)
    gone = endpoint.sealed_notice(
        first.id, active=False, ended={"code": "UEP_DIED", "text": ""}, heartbeat_period=30
    )
    first.publish(first.creds["heartbeat_queue_info"], goodbye)
    first.close()
    with endpoint.start_sealing() as uep:  # it left with work undone, and was started again
        task = uep.take_sealed()
        endpoint.beat()
        plain = StatusReport(endpoint_id=uep.id, global_state={"error": "forged", "active": False})
        for body in (gone, gone, envelope.encode(plain), seal.VERSION + b"garbage"):
            endpoint.say(body)  # `gone` was issued before the heartbeat
        for body in (goodbye, envelope.encode(StatusReport(endpoint_id=uep.id, global_state={"active": False}))):
            uep.publish(uep.creds["heartbeat_queue_info"], body)
        assert endpoint.command(wait_s=2.5) is None, "nobody is started anew"
        uep.answer_raw(uep.sealed_result(task.task_id, "true"))
        until(lambda: status(alice, task_id) == "success", "the true result counts")
    quick_relay.kill()
    quick_relay.outlives_test = True
    quick_relay.start()
    endpoint.say(gone)
    assert quick_relay.program is not None
    log = quick_relay.program.text
    wanted = f"ignored a report of {endpoint.id}: there was a newer one"
    until(lambda: wanted in log().rpartition("ready")[2], "order outlives the relay")


def test_a_group_that_a_stock_client_joins_is_plain_from_then_on_and_loses_nothing(
    sealing: MakeSealing, alice: Http
) -> None:
    endpoint = sealing()
    first = submit(alice, endpoint.id)
    group = first["task_group_id"]
    with endpoint.start_sealing() as uep:
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "first"))
        until(lambda: status(alice, task_ids(first)[0]) == "success", "its result waits, sealed")
        second = alice.submit(endpoint.id, alice.function(), task_group_id=group)
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "second"))
        third = submit(alice, endpoint.id, task_group_id=group)
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "third"))
        with closing(stream(alice, second)) as reader:
            found = [reader.result() for _ in range(3)]
    assert {r.data for r in found if r is not None} == {"first", "second", "third"}
    assert third["task_group_id"] == group


def test_a_stock_client_that_only_looks_at_a_group_can_read_its_queue(sealing: MakeSealing, alice: Http) -> None:
    endpoint = sealing()
    submitted = submit(alice, endpoint.id)
    with endpoint.start_sealing() as uep:
        uep.answer_raw(uep.sealed_result(uep.take_sealed().task_id, "answer"))
        until(lambda: status(alice, task_ids(submitted)[0]) == "success", "its result waits, sealed")
    alice.ok("GET", f"/v2/taskgroup/{submitted['task_group_id']}", headers=SEALS)
    alice.ok("GET", f"/v2/taskgroup/{submitted['task_group_id']}")
    with closing(stream(alice, submitted)) as reader:
        result = reader.result()
    assert result is not None
    assert result.data == "answer"


@pytest.mark.parametrize("ours_first", [False, True])
def test_tasks_of_an_endpoint_that_comes_back_in_another_form_end_with_a_name(
    people: People, alice: Http, site: Any, sealing: MakeSealing, ours_first: bool
) -> None:
    before = sealing() if ours_first else site()
    submitted = submit(alice, before.id)
    (task_id,) = task_ids(submitted)
    assert before.command() is not None
    before.close()
    kind = type(site()) if ours_first else SealingEndpoint
    after = kind(people("site@example.org"), id=before.id).register()
    until(lambda: status(alice, task_id) == "failed", "the task has its end")
    assert "TASK_LOST" in alice.task(task_id)["exception"]
    after.connect()
    submit(alice, before.id)
    with after.start_sealing() if isinstance(after, SealingEndpoint) else after.start_uep() as uep:
        task = uep.take_sealed() if isinstance(after, SealingEndpoint) else uep.take()
        assert task.task_id != task_id, "the queue was emptied"
    after.close()


def test_locking_an_endpoint_makes_its_keys_worthless(sealing: MakeSealing, alice: Http) -> None:
    endpoint = sealing()
    submitted = submit(alice, endpoint.id)
    command = endpoint.command()
    assert command is not None
    endpoint.owner.ok("POST", f"/v3/endpoints/{endpoint.id}/lock")
    endpoint.close()
    old = endpoint.answer["mep"]["seal_key"]

    def registered() -> bool:
        path = f"/v3/endpoints/{endpoint.id}"
        return endpoint.owner.client.put(path, json={"endpoint_name": "x"}).status_code != 423

    until(registered, "the lock expires", timeout_s=LOCK_S + 5)
    endpoint.register()
    assert endpoint.answer["mep"]["seal_key"] != old
    (task_id,) = task_ids(submitted)
    until(lambda: status(alice, task_id) == "failed", "what was sealed before has its end")
    assert "TASK_LOST" in alice.task(task_id)["exception"]
    endpoint.connect()
    submit(alice, endpoint.id)
    again = endpoint.command()
    assert again is not None
    assert again.document["kwargs"]["seal_key"] != command.document["kwargs"]["seal_key"]
