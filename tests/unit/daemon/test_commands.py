"""Start commands as the gate reads them: what may be asked of the monitor, what is answered, what is dropped."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any

import pika
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mep.base.ids import is_uuid, new_id
from mep.base.secrets import Secret
from mep.broker import Delivery
from mep.daemon import commands
from mep.wire import seal, sealed, signing
from mep.wire.limits import MAX_COMMAND_BYTES, MAX_PRIVSEP_BYTES
from mep.wire.seal import Sealer, derive
from mep.wire.sealed import SealedCommand
from mep.wire.signing import StartClaims

ENDPOINT, UEP, WHO = new_id(), new_id(), new_id()
URL = "amqp://u:s3cret@broker/"


def document(**changes: Any) -> dict[str, Any]:
    publish = {"exchange": "heartbeats", "routing_key": f"{UEP}.heartbeats"}
    heartbeats = {"connection_url": URL, "queue_publish_kwargs": publish}
    creds = {
        "endpoint_id": UEP,
        "task_queue_info": {"connection_url": URL, "queue": f"{UEP}.tasks"},
        "result_queue_info": {"connection_url": URL},
        "heartbeat_queue_info": heartbeats,
    }
    return {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": {"name": "uep", "amqp_creds": creds, "user_opts": {"account": "abc"}, "user_runtime": {}},
        "globus_effective_identity": WHO,
        "globus_username": "alice@example.org",
        "globus_identity_set": [{"id": WHO, "sub": WHO, "username": "alice@example.org", "status": "used"}],
    } | changes


def delivery(body: bytes | None = None, **properties: Any) -> Delivery:
    given_: dict[str, Any] = {"content_type": "application/json", "timestamp": int(time.time())} | properties
    headers: dict[str, Any] = given_.pop("headers", {})
    made = pika.BasicProperties(headers=headers, **given_)
    return Delivery(json.dumps(document()).encode() if body is None else body, headers, made, "", False, (1, 1))


def read(one: Delivery, **options: Any) -> commands.Read:
    return commands.read(one, endpoint_id=ENDPOINT, now=time.time(), **options)


def test_a_command_becomes_a_question_and_a_sealed_payload() -> None:
    one = delivery()
    asked = read(one)
    claims = json.loads(asked.start.claims)
    assert (claims["uep"], claims["sub"], claims["aud"]) == (UEP, WHO, ENDPOINT)
    assert claims["sha256"] == signing.body_digest(one.body)
    assert b"s3cret" not in asked.start.claims
    fd = asked.payload_fd()
    try:
        assert os.read(fd, 100_000) == one.body
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        assert fcntl.fcntl(fd, 1034) == 0xF, "not even the seals can be changed"
    finally:
        os.close(fd)


def test_a_signature_is_passed_on_unread_and_names_the_request() -> None:
    now = time.time()
    claims = StartClaims(
        aud=ENDPOINT, jti=new_id(), iat=now, exp=now + 180, uep=UEP, sub=WHO, ids=[], sha256="0" * 64
    )
    token = signing.sign(claims, Ed25519PrivateKey.generate())
    asked = read(delivery(headers={"mep-signature": token}))
    assert (asked.start.token, asked.start.claims) == (token, b"")
    assert asked.request_id == asked.start.request_id == claims.jti
    again = read(delivery(headers={"mep-signature": token}), taken={claims.jti})
    assert again.request_id != claims.jti
    assert is_uuid(again.request_id)


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "a." + "A" * 100 + ".c", 7, None, b"\xff.\xff.\xff", "x" * 60_000]
)
def test_a_strange_signature_is_the_monitors_to_refuse_or_too_large(token: Any) -> None:
    try:
        asked = read(delivery(headers={"mep-signature": token}))
    except commands.Refused as refused:
        assert refused.error.code == "COMMAND_TOO_LARGE"
        assert len(token) > 48 * 1024
    else:
        assert is_uuid(asked.request_id)


@pytest.mark.parametrize(
    ("properties", "body"),
    [
        ({"content_type": "text/plain"}, None),
        ({"content_type": None}, None),
        ({"timestamp": None}, None),
        ({}, b"\xff\xfe"),
        ({}, b"not json"),
        ({}, b"[" * 100_000),
        ({}, b"{}"),
        ({}, b""),
    ],
)
def test_what_names_no_user_endpoint_is_dropped(properties: dict[str, Any], body: bytes | None) -> None:
    with pytest.raises(commands.Dropped):
        read(delivery(body, **properties))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"command": "cmd_rm_rf"}, "COMMAND_MALFORMED"),
        ({"globus_identity_set": "alice"}, "COMMAND_MALFORMED"),
        ({"globus_effective_identity": None}, "COMMAND_MALFORMED"),
        ({"args": "x" * MAX_COMMAND_BYTES}, "COMMAND_TOO_LARGE"),
    ],
)
def test_a_command_that_names_its_user_endpoint_is_answered(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(commands.Refused) as caught:
        read(delivery(json.dumps(document(**changes)).encode()))
    assert caught.value.error.code == code
    assert caught.value.uep_id == UEP
    assert caught.value.reply_to is not None


@pytest.mark.parametrize("shift_s", [-181, 181])
def test_a_command_from_another_time_is_answered(shift_s: int) -> None:
    with pytest.raises(commands.Refused) as caught:
        read(delivery(timestamp=int(time.time()) + shift_s))
    assert caught.value.error.code == "COMMAND_STALE"
    read(delivery(timestamp=int(time.time()) + shift_s - (2 if shift_s > 0 else -2)))


@given(st.binary(max_size=400))
def test_garbage_never_gets_further(body: bytes) -> None:
    with pytest.raises((commands.Dropped, commands.Refused)):
        read(delivery(body))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(sorted(document())), json_values))
def test_almost_commands_are_read_or_refused_and_always_small(changes: dict[str, Any]) -> None:
    try:
        asked = read(delivery(json.dumps(document(**changes)).encode()))
    except (commands.Dropped, commands.Refused):
        return
    assert len(asked.start.claims) < MAX_PRIVSEP_BYTES


# ---- sealed ----


def sealed_delivery(body: bytes, token: str = "", **options: Any) -> Delivery:
    content = options.pop("content", sealed.encode(SealedCommand(token, body)))
    return Delivery(options.pop("key", SEALER).seal(content), {}, pika.BasicProperties(), "", False, (1, 1))


KEY = derive(Secret("relay"), ENDPOINT)
SEALER = Sealer(KEY, seal.COMMAND, ENDPOINT)


def test_a_sealed_command_is_read_as_the_plain_one() -> None:
    body = json.dumps(document()).encode()
    asked = read(sealed_delivery(body, "the.token"), sealer=SEALER)
    assert (asked.uep_id, asked.start.token, asked.body) == (UEP, "the.token", body)


def test_where_the_relay_seals_nothing_else_is_a_command() -> None:
    body = json.dumps(document()).encode()
    strangers = (Sealer(derive(Secret("x")), seal.COMMAND, ENDPOINT), Sealer(KEY, seal.NOTICE, ENDPOINT))
    for one in (delivery(), *(sealed_delivery(body, key=stranger) for stranger in strangers)):
        with pytest.raises(commands.Unsealed):
            read(one, sealer=SEALER)
    with pytest.raises(commands.Dropped):
        read(sealed_delivery(body, content=b"\xc1"), sealer=SEALER)


def test_the_age_of_a_sealed_command_is_what_the_seal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("mep.wire.seal.time.time", lambda: now - 400)
        one = sealed_delivery(json.dumps(document()).encode())
    with pytest.raises(commands.Refused, match="COMMAND_STALE"):
        read(one, sealer=SEALER)
