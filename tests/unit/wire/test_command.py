"""Start commands: a closed form, a size cap, and no secret in a message."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.wire import command
from mep.wire.limits import MAX_COMMAND_BYTES

URL = "amqp://uep.x:planted-password@broker:5672/%2F"
QUEUE = {"connection_url": URL, "exchange": "e", "queue": "q"}
DOCUMENT: dict[str, Any] = {
    "command": "cmd_start_endpoint",
    "args": [],
    "kwargs": {
        "name": "uep.1",
        "user_opts": {"n": 1},
        "user_runtime": {"python_version": "3.11"},
        "amqp_creds": {"endpoint_id": "u", "task_queue_info": QUEUE, "result_queue_info": QUEUE},
    },
    "globus_username": "alice@example.org",
    "globus_effective_identity": "i",
    "globus_identity_set": [{"sub": "i", "username": "alice@example.org", "status": "used"}],
}


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_a_command_comes_out_as_it_went_in() -> None:
    decoded = command.decode(encoded(DOCUMENT))
    assert decoded.kwargs.amqp_creds.task_queue_info.connection_url.reveal() == URL
    assert decoded.globus_identity_set == DOCUMENT["globus_identity_set"]
    assert command.decode(command.encode(decoded)) == decoded


def test_the_password_shows_in_no_message_about_the_command() -> None:
    decoded = command.decode(encoded(DOCUMENT))
    assert "planted-password" not in repr(decoded)
    broken = copy.deepcopy(DOCUMENT)
    broken["kwargs"]["amqp_creds"]["endpoint_id"] = {"url": URL}
    with pytest.raises(InputError) as caught:
        command.decode(encoded(broken))
    assert "planted-password" not in str(caught.value)
    assert "planted-password" not in caught.value.for_admin()


@pytest.mark.parametrize("path", ["command", "kwargs", "globus_effective_identity", "globus_identity_set"])
def test_a_missing_part_is_named(path: str) -> None:
    document = {k: v for k, v in DOCUMENT.items() if k != path}
    with pytest.raises(InputError, match=path) as caught:
        command.decode(encoded(document))
    assert caught.value.code is Code.COMMAND_MALFORMED


def test_ten_megabytes_are_refused_unread() -> None:
    for body in (b"x" * 10_000_000, encoded(DOCUMENT | {"pad": "x" * MAX_COMMAND_BYTES})):
        with pytest.raises(InputError) as caught:
            command.decode(body)
        assert caught.value.code is Code.COMMAND_TOO_LARGE


def test_a_command_at_the_limit_is_read() -> None:
    pad = MAX_COMMAND_BYTES - len(encoded(DOCUMENT | {"pad": ""}))
    command.decode(encoded(DOCUMENT | {"pad": "x" * pad}))


def test_another_command_is_refused_and_named_shortly() -> None:
    with pytest.raises(InputError, match="cmd_stop") as caught:
        command.decode(encoded(DOCUMENT | {"command": "cmd_stop" + "x" * 5000}))
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(noise: bytes) -> None:
    with pytest.raises(InputError):
        command.decode(noise)


@given(st.data())
def test_any_replaced_part_is_decoded_or_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENT)
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(node)))
        if not isinstance(node[key], dict) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=9)
    nested = st.lists(leaf, max_size=2) | st.dictionaries(st.text(max_size=3), leaf, max_size=2)
    node[key] = data.draw(leaf | nested)
    try:
        command.decode(encoded(document))
    except InputError as error:
        assert error.code is Code.COMMAND_MALFORMED


def test_deep_nesting_is_refused_not_a_crash() -> None:
    body = encoded(DOCUMENT).replace(b'{"n": 1}', b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    with pytest.raises(InputError):
        command.decode(body)


def test_a_secret_is_revealed_by_the_commands_own_encoder_only() -> None:
    decoded = command.decode(encoded(DOCUMENT))
    with pytest.raises(TypeError):
        msgspec.json.encode(decoded)
