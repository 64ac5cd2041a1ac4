"""From any message on the task queue to a call, an answer, or the verdict that nobody can be answered."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.ids import is_uuid, new_id
from mep.broker import Delivery
from mep.endpoint.intake import Unanswerable, read_task
from mep.engines.base import Call, Outcome
from mep.wire import envelope

TASK, FUNCTION = new_id(), new_id()
BODY = envelope.encode(envelope.Task(task_id=TASK, task_buffer="b"))
HEADERS: dict[str, Any] = {envelope.HEADER_TASK: TASK, envelope.HEADER_FUNCTION: FUNCTION}


def delivery(body: bytes = BODY, **headers: Any) -> Delivery:
    return Delivery(body, {**HEADERS, **headers}, None, "", False, (1, 1))


def failed(outcome: Call | Outcome) -> envelope.Result:
    assert isinstance(outcome, Outcome)
    result = envelope.decode(outcome.body)
    assert isinstance(result, envelope.Result)
    assert result.error_details is not None
    assert result.task_id == outcome.task_id
    return result


def test_a_good_message_is_a_call() -> None:
    got = read_task(delivery(resource_specification='{"num_nodes": 2}', result_serializers=["a.B"]), None, "u")
    assert got == Call(TASK, FUNCTION, "b", {"num_nodes": 2}, ("a.B",))


def test_the_headers_id_counts_not_the_bodys() -> None:
    other = new_id()
    got = read_task(delivery(task_uuid=other), None, "u")
    assert isinstance(got, Call)
    assert got.task_id == other


def test_a_header_that_is_no_id_fails_the_bodys_task() -> None:
    result = failed(read_task(delivery(task_uuid=7), None, "u"))
    assert result.task_id == TASK
    assert "task_uuid" in result.data


def test_another_message_type_fails_as_the_stock_one_does() -> None:
    body = envelope.encode(envelope.StatusReport(endpoint_id="e"))
    result = failed(read_task(delivery(body), None, "u"))
    assert result.error_details is not None
    assert result.error_details.code == "CouldNotExecuteUserTaskError"


def test_a_function_off_the_list_is_refused_and_one_on_it_is_not() -> None:
    assert failed(read_task(delivery(), {new_id()}, "u")).details == {"fid": FUNCTION, "eid": "u"}
    assert isinstance(read_task(delivery(), {FUNCTION}, "u"), Call)


def test_a_message_without_any_id_is_unanswerable() -> None:
    with pytest.raises(Unanswerable):
        read_task(delivery(b"\x01{}", task_uuid=None), None, "u")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_headers = st.dictionaries(
    st.sampled_from(
        [
            envelope.HEADER_TASK,
            envelope.HEADER_FUNCTION,
            envelope.HEADER_RESOURCES,
            envelope.HEADER_SERIALIZERS,
        ]
    ),
    st.binary(max_size=20) | _json | st.just(TASK),
)


@given(
    body=st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"\x01" + b) | st.just(BODY),
    headers=_headers,
)
def test_any_message_has_an_answer_or_names_no_task(body: bytes, headers: dict[str, Any]) -> None:
    with contextlib.suppress(Unanswerable):
        got = read_task(Delivery(body, headers, None, "", False, (1, 1)), None, "u")
        assert is_uuid(got.task_id)
        if isinstance(got, Outcome):
            failed(got)
