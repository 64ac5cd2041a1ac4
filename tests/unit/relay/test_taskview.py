"""Task documents: states, results and errors as stock clients read them."""

from __future__ import annotations

import json

import msgspec

from mep.relay.store.tasks import TaskState
from mep.relay.taskview import document
from mep.wire import envelope
from mep.wire.envelope import ErrorDetails, Result, Transition


def state(body: bytes | None, *, done: float | None = 20.5, uep_state: str = "up") -> TaskState:
    return TaskState("t", "g", "i", uep_state, 10.0, done, body)


def shown(task: TaskState) -> dict[str, object]:
    return dict(json.loads(msgspec.json.encode(document(task))))


def test_an_unfinished_task_is_pending() -> None:
    assert shown(state(None, done=None))["status"] == "running"
    assert shown(state(None, done=None, uep_state="stopped"))["status"] == "waiting-for-ep"


def test_a_result_s_data_is_passed_on_as_it_is() -> None:
    text = '00\nödd "quotes" \\ \u2028 \x00\n'
    steps = [Transition(timestamp=12_500_000_000, state="execution-start", actor="worker")]
    told = shown(state(envelope.encode(Result(task_id="t", data=text, details={"os": "x"}, task_statuses=steps))))
    assert told["result"] == text
    assert (told["status"], told["completion_t"]) == ("success", "20.5")
    assert told["details"] == {
        "os": "x",
        "task_transitions": {"received": 10.0, "execution-start": 12.5, "success": 20.5},
    }


def test_a_failure_has_an_exception_and_no_result() -> None:
    failed = Result(task_id="t", data="Traceback", error_details=ErrorDetails(code="X", user_message="m"))
    told = shown(state(envelope.encode(failed)))
    assert (told["status"], told["exception"]) == ("failed", "Traceback")
    assert "result" not in told
