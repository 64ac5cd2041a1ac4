"""The envelope: what goes in comes out; noise gets an InputError and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.wire import envelope
from mep.wire.envelope import ErrorDetails, Result, StatusReport, Task, Transition

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(TEXT, x, max_size=4),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
MESSAGES = st.one_of(
    st.builds(Task, task_id=TEXT, task_buffer=TEXT, container_id=st.none() | TEXT),
    st.builds(
        Result,
        task_id=TEXT,
        data=TEXT,
        error_details=st.none() | st.builds(ErrorDetails, code=TEXT, user_message=TEXT),
        details=st.none() | OBJECT,
        task_statuses=st.none()
        | st.lists(st.builds(Transition, timestamp=st.integers(0, 2**62), state=TEXT, actor=TEXT), max_size=3),
    ),
    st.builds(StatusReport, endpoint_id=TEXT, global_state=OBJECT, task_statuses=OBJECT),
)


@given(MESSAGES)
def test_a_message_comes_out_as_it_went_in(message: envelope.Message) -> None:
    assert envelope.decode(envelope.encode(message)) == message


@given(MESSAGES)
def test_the_form_is_the_protocols(message: envelope.Message) -> None:
    body = envelope.encode(message)
    assert body[:1] == b"\x01"
    document = json.loads(body[1:])
    assert set(document) == {"message_type", "data"}


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(noise: bytes) -> None:
    for body in (noise, b"\x01" + noise):
        with pytest.raises(InputError) as caught:
            envelope.decode(body)
        assert caught.value.code is Code.TASK_MALFORMED


@given(MESSAGES, st.integers(0, 400), st.binary(max_size=4))
def test_damaged_messages_are_decoded_or_refused(message: envelope.Message, at: int, noise: bytes) -> None:
    body = envelope.encode(message)
    try:
        envelope.decode(body[:at] + noise + body[at + len(noise) :])
    except InputError as error:
        assert error.code is Code.TASK_MALFORMED


@given(st.sampled_from(["task", "result", "ep_status_report", "other"]), JSON)
def test_any_json_is_decoded_or_refused(kind: str, data: Any) -> None:
    body = b"\x01" + json.dumps({"message_type": kind, "data": data}).encode()
    try:
        envelope.decode(body)
    except InputError as error:
        assert error.code is Code.TASK_MALFORMED


def test_deep_nesting_is_refused_not_a_crash() -> None:
    for kind in ("task", "result", "ep_status_report"):
        body = b'\x01{"message_type":"' + kind.encode() + b'","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        with pytest.raises(InputError):
            envelope.decode(body)


def test_a_refusal_names_what_was_wanted() -> None:
    with pytest.raises(InputError, match="wanted b'\\\\x01'"):
        envelope.decode(b"\x02{}")
    with pytest.raises(InputError, match="wanted one of task, result, ep_status_report"):
        envelope.decode(b'\x01{"message_type":"task_cancel","data":{}}')
    with pytest.raises(InputError, match="task_buffer"):
        envelope.decode(b'\x01{"message_type":"task","data":{"task_id":"x"}}')


def test_unknown_fields_are_ignored() -> None:
    body = b'\x01{"message_type":"task","data":{"task_id":"t","task_buffer":"b","new":{"x":1}},"also":2}'
    assert envelope.decode(body) == Task(task_id="t", task_buffer="b")


def test_reports_of_old_endpoints_are_understood() -> None:
    data = b'{"endpoint_id":"e","ep_status_report":{"heartbeat_period":0}}'
    body = b'\x01{"message_type":"ep_status_report","data":' + data + b"}"
    assert envelope.decode(body) == StatusReport(endpoint_id="e", global_state={"heartbeat_period": 0})
