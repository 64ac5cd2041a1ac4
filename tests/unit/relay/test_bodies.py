"""Whatever comes as a body, the decoders answer with a refusal, never with a crash."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.relay import registration, submit
from mep.relay.errors import HttpError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
SUBMIT_KEYS = st.sampled_from(
    [
        "tasks",
        "create_queue",
        "task_group_id",
        "user_endpoint_config",
        "resource_specification",
        "result_serializers",
    ]
)
REGISTRATION_KEYS = st.sampled_from(
    ["endpoint_name", "metadata", "multi_user", "public", "allowed_functions", "admins", "display_name"]
)


@given(st.binary(max_size=200) | st.dictionaries(SUBMIT_KEYS, JSON).map(lambda d: json.dumps(d).encode()))
def test_a_submit_body_is_decoded_or_refused(body: bytes) -> None:
    try:
        decoded = submit.decode(body)
    except HttpError as error:
        assert error.status in (400, 422)
    else:
        assert all(isinstance(payload, str) for some in decoded.tasks.values() for payload in some)


@given(st.binary(max_size=200) | st.dictionaries(REGISTRATION_KEYS, JSON).map(lambda d: json.dumps(d).encode()))
def test_a_registration_body_is_decoded_or_refused(body: bytes) -> None:
    try:
        decoded = registration.decode(body)
    except HttpError as error:
        assert error.status in (400, 422)
    else:
        assert isinstance(decoded.metadata, dict)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"\x00", b'{"tasks":{"a":["\xff"]}}'])
def test_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(HttpError):
        submit.decode(body)
