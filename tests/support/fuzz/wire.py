"""Targets: every message that crosses a network or a privilege."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mep.base.errors import InputError, RefusedError
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.wire import command, control, envelope, packing, privsep, seal, sealed, signing
from mep.wire.decoding import INVALID
from mep.wire.keys import PublicKey
from mep.wire.privsep import Channel
from mep.wire.seal import Sealer, SealError
from mep.wire.taskevents import TaskEvent, TaskEvents
from support.fuzz.core import Target, as_json

UEP, WHO, ENDPOINT = new_id(), new_id(), new_id()
QUEUE = {
    "connection_url": "amqp://u:p@broker/%2F",
    "exchange": "e",
    "queue": "q",
    "queue_publish_kwargs": {"a": 1},
}
COMMAND: dict[str, Any] = {
    "command": "cmd_start_endpoint",
    "args": [],
    "kwargs": {
        "name": "uep.1",
        "user_opts": {"n": 1, "deep": {"a": [1, 2.5, None]}},
        "user_runtime": {"python_version": "3.11"},
        "amqp_creds": {
            "endpoint_id": UEP,
            "task_queue_info": QUEUE,
            "result_queue_info": QUEUE,
            "heartbeat_queue_info": QUEUE,
        },
    },
    "globus_username": "alice@example.org",
    "globus_effective_identity": WHO,
    "globus_identity_set": [{"sub": WHO, "id": WHO, "username": "alice@example.org", "status": "used"}],
}
MESSAGES: tuple[envelope.Message, ...] = (
    envelope.Task(task_id=UEP, task_buffer="1\na1\nb", container={"a": 1}),
    envelope.Result(
        task_id=UEP,
        data="text",
        error_details=envelope.ErrorDetails(code="C", user_message="m"),
        details={"os": "linux", "n": 1},
        task_statuses=[envelope.Transition(timestamp=1, state="exec-start", actor="WORKER")],
    ),
    envelope.StatusReport(endpoint_id=UEP, global_state={"heartbeat_period": 30, "active": True}),
)
OLD_REPORT = (
    b'\x01{"message_type":"ep_status_report","data":{"endpoint_id":"e","ep_status_report":{"info":{"a":1}}}}'
)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
ANNOUNCED = signing.public_key(KEY)
CLAIMS = signing.StartClaims(
    aud=ENDPOINT,
    jti="j",
    iat=1e9,
    exp=1e9 + 60,
    uep=UEP,
    sub=WHO,
    ids=COMMAND["globus_identity_set"],
    sha256="0" * 64,
)
SEALER = Sealer(Secret("ab" * 32), seal.TASK, "channel")
SEALED_TASK = sealed.SealedTask(UEP, WHO, "1\na", {"a": 1}, ["x"])


def _same(decode: Any, encode: Any) -> Any:
    """What is taken comes out of its own encoding as it went in."""

    def run(data: bytes) -> object:
        first = decode(data)
        assert decode(encode(first)) == first
        return first

    return run


def _verify(data: bytes) -> object:
    """Anybody's token; and these bytes as the payload of one that the relay has signed."""
    keys = {ANNOUNCED.kid: ANNOUNCED}
    try:
        signing.verify(data.decode("latin-1"), keys, audience=ENDPOINT, now=1e9)
    except RefusedError:
        pass
    signed = jwt.api_jws.encode(data, KEY, algorithm="EdDSA", headers={"kid": ANNOUNCED.kid})
    return signing.verify(signed, keys, audience=ENDPOINT, now=1e9)


def _vouched(data: bytes) -> object:
    key = msgspec.json.decode(data, type=PublicKey)
    return signing.is_vouched_for(key, by=ANNOUNCED), signing.is_vouched_for(ANNOUNCED, by=key)


def _channel(union: object) -> Any:
    """Over a real socket, and no descriptor stays."""

    def run(data: bytes) -> object:
        ours, theirs = privsep.channel_pair()
        with ours, theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
            socket.send_fds(theirs, [data[:100_000] or b"\0"], [0])
            received = Channel[Any, Any](ours, union).receive()
            assert received is not None
            if received[1] is not None:
                os.close(received[1])
            return received

    return run


def _packed(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    buffers = packing.unpack(text)
    assert packing.unpack(packing.pack(buffers)) == buffers
    return buffers


PRIVSEP: dict[str, tuple[object, list[Any]]] = {
    "gate to monitor": (
        privsep.GateToMonitor,
        [
            privsep.Start(request_id="r", token="t", claims=b"{}"),
            privsep.ServiceState(service="relay", state="connected", since=1.0),
            privsep.Registered(endpoint_id=ENDPOINT, keys=[ANNOUNCED]),
        ],
    ),
    "monitor to gate": (privsep.MonitorToGate, [privsep.Running(uep_ids=[UEP]), privsep.Stop()]),
    "child to monitor": (
        privsep.ChildToMonitor,
        [
            privsep.Mapped(uid=1000, gid=1000, user="alice", rule="r", identity=WHO),
            privsep.Lower(memory=1, cpu=0.5),
            privsep.Note(state="idle", tasks_done=1),
            privsep.Failed(code="C", user_text="u", admin_text="a"),
            TaskEvents(events=[TaskEvent("received", time.time(), UEP, WHO)], dropped=1),
        ],
    ),
    "monitor to child": (privsep.MonitorToChild, [privsep.Quit(grace_s=1.0), privsep.Hold(why="w")]),
}

TARGETS: list[Target] = [
    Target(
        "envelope",
        _same(envelope.decode, envelope.encode),
        (
            "wire/envelope.py:decode",
            "wire/envelope.py:_envelope",
            "wire/envelope.py:_decoders",
            "wire/envelope.py:_with_legacy_name",
        ),
        (*map(envelope.encode, MESSAGES), OLD_REPORT),
        must_refuse_noise=True,
    ),
    Target(
        "start command",
        _same(command.decode, command.encode),
        ("wire/command.py:decode", "wire/command.py:_decoder", "wire/command.py:decode_secret"),
        as_json(COMMAND),
        must_refuse_noise=True,
    ),
    Target("signature", _verify, ("wire/signing.py:verify",), (msgspec.json.encode(CLAIMS),)),
    Target(
        "vouching",
        _vouched,
        ("wire/signing.py:is_vouched_for",),
        (msgspec.json.encode(signing.vouch_for(ANNOUNCED, by=KEY)),),
        refuses=INVALID,
    ),
    *(
        Target(
            f"privsep, {name}",
            _channel(union),
            ("wire/privsep.py:_DECODERS", "wire/privsep.py:Channel.__init__", "wire/privsep.py:Channel.receive"),
            tuple(map(msgspec.msgpack.encode, seeds)),
        )
        for name, (union, seeds) in PRIVSEP.items()
    ),
    Target(
        "control request",
        control.decode_request,
        ("wire/control.py:decode_request",),
        as_json({"verb": "status"}, {"verb": "stop-user", "user": "alice"}),
        refuses=INVALID,
    ),
    Target(
        "control reply",
        control.decode_reply,
        ("wire/control.py:decode_reply",),
        (
            control.encode(
                control.Reply(ok=True, status=control.EndpointStatus(name="e", endpoint_id="e", state="s"))
            ),
        ),
        refuses=INVALID,
    ),
    Target("packed buffers", _packed, ("wire/packing.py:unpack",), (b"1\na3\nabc", "2\né²".encode(), b"0\n0\n")),
    Target(
        "seal",
        SEALER.open,
        ("wire/seal.py:Sealer.open",),
        (SEALER.seal(b"content"), SEALER.seal(b"")),
        refuses=(SealError,),
    ),
    Target(
        "sealed task",
        _same(sealed.decode_task, sealed.encode),
        ("wire/sealed.py:_task", "wire/sealed.py:decode_task"),
        (sealed.encode(SEALED_TASK),),
        refuses=(InputError,),
    ),
    Target(
        "sealed command",
        _same(sealed.decode_command, sealed.encode),
        ("wire/sealed.py:_command", "wire/sealed.py:decode_command"),
        (sealed.encode(sealed.SealedCommand("t", b"b")),),
        refuses=(InputError,),
    ),
]
