"""Results: the first one counts, only its own user endpoint may send it, nothing else reaches a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from mep.base.ids import new_id
from mep.wire import envelope
from mep.wire.envelope import Result, Task, Transition
from support.fake_endpoint import FakeEndpoint, FakeUep, Http, Reader
from support.fleet import MakeEndpoint, People, alice, people, quick_relay, site, stream, task_ids
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]


@dataclass
class Scene:
    """Alice has submitted one task, her user endpoint has taken it."""

    endpoint: FakeEndpoint
    person: Http
    uep: FakeUep
    task: Task
    reader: Reader

    def settle(self) -> None:
        """Return once everything sent before this has been handled: results are taken in order."""
        function_id = self.person.function()
        submitted = self.person.submit(self.endpoint.id, function_id)
        (last,) = task_ids(submitted)
        assert self.uep.take().task_id == last
        self.uep.answer(last)
        until(lambda: self.person.task(last)["status"] == "success", "the last result was handled")


@pytest.fixture
def scene(site: MakeEndpoint, alice: Http) -> Iterator[Scene]:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as uep, closing(stream(alice, submitted)) as reader:
        yield Scene(endpoint, alice, uep, uep.take(), reader)


def test_the_first_result_wins_and_only_it_is_delivered(scene: Scene) -> None:
    for data in ("00\nfirst\n", "00\nsecond\n", "00\nthird\n"):
        scene.uep.answer(scene.task.task_id, data)
    scene.settle()
    assert scene.person.task(scene.task.task_id)["result"] == "00\nfirst\n"
    result = scene.reader.result()
    assert result is not None
    assert result.data == "00\nfirst\n"
    assert scene.reader.result(wait_s=0.3) is None


def test_a_result_is_forwarded_byte_for_byte(scene: Scene) -> None:
    body = (
        b'\x01{ "message_type": "result", "data": {"task_id": "%s", "data": "00\\n\\u00e9\xc3\xa9",'
        b' "error_details": null, "future_field": [1, 2]} }' % scene.task.task_id.encode()
    )
    scene.uep.answer_raw(body)
    found = scene.reader.next_message(scene.reader.queue)
    assert found is not None
    assert found[2] == body
    assert scene.person.task(scene.task.task_id)["result"] == "00\néé"


def test_a_failed_task_is_failed_over_http_too(scene: Scene) -> None:
    scene.uep.answer(scene.task.task_id, "Traceback: boom", error="RemoteExecutionError")
    until(lambda: scene.person.task(scene.task.task_id)["status"] == "failed", "failed")
    document = scene.person.task(scene.task.task_id)
    assert document["exception"] == "Traceback: boom"
    assert document["completion_t"]
    assert "result" not in document


def test_a_user_endpoint_cannot_answer_for_another_s_task(scene: Scene, people: People) -> None:
    bob = people("bob@example.org")
    bob.submit(scene.endpoint.id, bob.function())
    with scene.endpoint.start_uep() as thief:
        thief.answer(scene.task.task_id, "00\nforged\n")
        thief.answer(thief.take().task_id)
        scene.settle()
        assert scene.person.task(scene.task.task_id)["status"] == "running"
    scene.uep.answer(scene.task.task_id, "00\ntrue\n")
    result = scene.reader.result()
    assert result is not None
    assert result.data == "00\ntrue\n"


def test_results_of_unknown_tasks_and_garbage_are_dropped(scene: Scene) -> None:
    scene.uep.answer(new_id())
    for garbage in (b"", b"\x02{}", b"\x01{", b"\x01[]", b'\x01{"message_type":"x","data":{}}', b"\xff" * 100):
        scene.uep.answer_raw(garbage)
    scene.uep.answer_raw(envelope.encode(Task(task_id=new_id(), task_buffer="")))
    scene.settle()
    assert scene.reader.result(wait_s=0.2) is None
    assert scene.person.task(scene.task.task_id)["status"] == "running"


@pytest.mark.parametrize(
    "fields",
    [
        {"data": 5},
        {"data": "x", "error_details": {"code": 1, "user_message": "m"}},
        {"data": "x", "error_details": "no object"},
        {"data": "x", "task_statuses": [{"timestamp": 1, "state": "dancing", "actor": "worker"}]},
        {"data": "x", "task_statuses": [{"timestamp": 1, "state": "running", "actor": "nobody"}]},
        {"data": "x", "details": []},
        {},
    ],
)
def test_a_result_that_clients_would_requeue_for_ever_becomes_a_failure(
    scene: Scene, fields: dict[str, object]
) -> None:
    data = {"task_id": scene.task.task_id, **fields}
    scene.uep.answer_raw(b"\x01" + json.dumps({"message_type": "result", "data": data}).encode())
    result = scene.reader.result()
    assert result is not None
    assert result.task_id == scene.task.task_id
    assert result.error_details is not None
    assert "unusable result" in result.data


def test_a_result_in_broken_utf8_becomes_a_failure(scene: Scene) -> None:
    scene.uep.answer_raw(
        b'\x01{"message_type":"result","data":{"task_id":"%s","data":"\xff\xfe"}}' % scene.task.task_id.encode()
    )
    result = scene.reader.result()
    assert result is not None
    assert result.error_details is not None


def test_a_status_report_on_the_results_queue_counts(scene: Scene) -> None:
    scene.uep.answer_raw(
        envelope.encode(envelope.StatusReport(endpoint_id=scene.uep.id, global_state={"active": False}))
    )
    (path, wanted) = (f"/v3/endpoints/{scene.endpoint.id}/console", scene.uep.id)
    owner = scene.endpoint.owner

    def state() -> str:
        rows = owner.ok("GET", path)["user_endpoints"]
        return str(next(r["state"] for r in rows if r["user_endpoint_id"] == wanted))

    until(lambda: state() != "up", "the goodbye was heard")


def test_without_create_queue_results_are_kept_and_not_pushed(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function(), create_queue=False)
    (task_id,) = task_ids(submitted)
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
    until(lambda: alice.task(task_id)["status"] == "success", "stored")


def test_a_thousand_results_in_one_go_are_all_delivered_once(site: MakeEndpoint, alice: Http) -> None:
    endpoint, count = site(), 1000
    submitted = alice.submit(endpoint.id, alice.function(), *["1\na1\nb"] * count)
    with endpoint.start_uep() as uep, closing(stream(alice, submitted)) as reader:
        step = [Transition(timestamp=1, state="running", actor="worker")]
        for task_id in task_ids(submitted):
            body = envelope.encode(Result(task_id=task_id, data="00\nx\n", task_statuses=step))
            uep.answer_raw(body)
        delivered = [reader.result() for _ in range(count)]
        assert {r.task_id for r in delivered if r is not None} == set(task_ids(submitted))
        assert reader.result(wait_s=0.2) is None


def test_a_result_above_the_limit_becomes_a_failure_that_names_it(scene: Scene) -> None:
    scene.uep.answer(scene.task.task_id, "x" * (10 * 1024 * 1024 + 1))
    result = scene.reader.result()
    assert result is not None
    assert result.error_details is not None
    assert result.error_details.code == "RESULT_TOO_LARGE"
    assert "10485761" in result.data


def test_a_result_at_the_limit_passes(scene: Scene) -> None:
    scene.uep.answer(scene.task.task_id, "é" * (10 * 1024 * 1024))
    result = scene.reader.result()
    assert result is not None
    assert result.error_details is None
    assert len(scene.person.task(scene.task.task_id)["result"]) == 10 * 1024 * 1024
