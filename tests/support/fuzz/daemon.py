"""Targets: what the daemon (monitor and gate) reads: commands, answers over HTTP, its own state, its sockets."""

from __future__ import annotations

import json
import tempfile
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pika

from mep.base.errors import MepError
from mep.base.secrets import Secret
from mep.broker import Delivery
from mep.daemon import commands, relayclient, state
from mep.daemon.commands import Dropped, Refused
from mep.daemon.controlserver import ControlServer
from mep.daemon.relayclient import Credentials, RelayClient
from mep.daemon.state import State
from mep.daemon.verify import Verifier
from mep.wire import command, control, signing
from mep.wire.privsep import Start
from mep.wire.rest import RegistrationRequest
from support.fuzz.core import Target, as_json, memory_file
from support.fuzz.wire import CLAIMS, COMMAND, ENDPOINT, KEY, QUEUE, WHO

ANSWER: dict[str, Any] = {
    "endpoint_id": ENDPOINT,
    "command_queue_info": QUEUE,
    "heartbeat_queue_info": QUEUE,
    "warnings": ["w"],
    "mep": {"version": "1", "keys": msgspec.to_builtins([signing.public_key(KEY)])},
}
OTHER = {"access_token": "u", "resource_server": "auth.globus.org"}
TOKENS = {"access_token": "t", "resource_server": "r", "other_tokens": [OTHER]}
REGISTRATION = {
    "endpoint_name": "e",
    "metadata": {"endpoint_version": "1", "python_version": "3", "hostname": "h", "local_user": "u"},
    "public": True,
    "high_assurance": False,
}


def _delivery(body: bytes, **headers: Any) -> Delivery:
    properties = pika.BasicProperties(content_type="application/json", timestamp=10**9)
    return Delivery(body, headers, properties, "", False, (0, 0))


def _gate_reads(data: bytes) -> object:
    """As a command's body, and as the signature of a good one: text, or bytes, as the broker hands it over."""
    good = json.dumps(COMMAND).encode()
    for token in (data.decode("latin-1"), data, f"x.{urlsafe_b64encode(data).decode()}.y"):
        try:
            commands.read(_delivery(good, **{command.HEADER_SIGNATURE: token}), endpoint_id=ENDPOINT, now=1e9)
        except (Dropped, Refused):
            pass
    found = commands.read(_delivery(data), endpoint_id=ENDPOINT, now=1e9)
    assert len(found.start.claims) + len(found.start.token) < 64 * 1024
    return found


class _Answers(RelayClient):
    """A relay whose every answer is what it is given."""

    def __init__(self, status: int, answer: bytes) -> None:
        super().__init__("http://x", "http://x", Credentials("c", Secret("s")))
        self._told = status, answer

    def _send(self, *_: Any) -> tuple[int, bytes]:
        return self._told


def _with_token(status: int, answer: bytes) -> _Answers:
    client = _Answers(status, answer)
    client._credentials = Credentials(token=Secret("t"))
    return client


def _registered(data: bytes) -> object:
    request = msgspec.convert(REGISTRATION, RegistrationRequest)
    try:
        _with_token(500, data).register(request, "")
    except MepError:
        pass
    return _with_token(200, data).register(request, "")


def _verifier(found: bytes) -> object:
    """The monitor, which is root, about claims that the gate passes on unsigned."""
    keeper = cast(Any, _Kept())
    return Verifier(keeper, required=False).claims_of(Start(request_id="r", claims=_now(found)))


def _now(data: bytes) -> bytes:
    """Claims of this moment: others are refused for their age."""
    return data.replace(b"1000000000.0", str(time.time()).encode()).replace(
        b"1000000060.0", str(time.time() + 60).encode()
    )


class _Kept:
    def __init__(self) -> None:
        self.endpoint_id, self.keys = ENDPOINT, dict[str, Any]()


def _state(name: str) -> Any:
    """A state folder of which one file was damaged."""

    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory(prefix="mep-fuzz-") as folder:
            Path(folder, name).write_bytes(data)
            paths = SimpleNamespace(state_dir=Path(folder), endpoint_json=Path(folder, "none"))
            return State(cast(Any, paths))

    return run


def _answered(data: bytes) -> object:
    """A line at the control socket; the reply can be sent."""
    server = ControlServer.__new__(ControlServer)
    server._verbs = {"status": lambda _request: control.Reply(ok=True)}
    return control.encode(server._answer(data))


TARGETS: list[Target] = [
    Target(
        "command at the gate",
        _gate_reads,
        (
            "daemon/commands.py:read",
            "daemon/commands.py:_id_in",
            "daemon/commands.py:_unique_of",
            "daemon/commands.py:_asker_of",
        ),
        as_json(COMMAND),
        refuses=(Dropped, Refused),
    ),
    Target(
        "unsigned claims at the monitor",
        _verifier,
        ("daemon/verify.py:_decode",),
        (msgspec.json.encode(CLAIMS),),
    ),
    Target(
        "registration's answer",
        _registered,
        ("daemon/relayclient.py:_answer_of", "daemon/relayclient.py:_detail"),
        as_json(ANSWER),
    ),
    Target(
        "userinfo's answer",
        lambda data: _with_token(200, data).owner_identities(),
        ("daemon/relayclient.py:_owner_of",),
        as_json({"sub": WHO, "identity_set": [{"sub": WHO}]}),
    ),
    Target(
        "token answer",
        lambda data: _Answers(200, data)._token("auth.globus.org"),
        ("daemon/relayclient.py:_tokens_of",),
        as_json(TOKENS),
    ),
    Target(
        "credentials behind an fd",
        lambda data: relayclient.read_credentials(memory_file(data)),
        ("daemon/relayclient.py:read_credentials",),
        as_json({"client_id": "c", "client_secret": "s"}, {"token": "t"}),
    ),
    Target(
        "endpoint.json",
        _state("endpoint.json"),
        ("daemon/state.py:State._read_id",),
        as_json({"endpoint_id": ENDPOINT}),
    ),
    Target(
        "relay_keys.json",
        _state("relay_keys.json"),
        ("daemon/state.py:State._read_keys", "daemon/state.py:State._read"),
        as_json(ANSWER["mep"]["keys"]),
    ),
    Target(
        "replays",
        _state(state._REPLAYS),
        ("daemon/state.py:State._read_replays",),
        (b'[1e9, "j"]\n[5, 7]\n\n[1795362000.0, "k"]\n',),
    ),
    Target(
        "line at the control socket", _answered, ("wire/control.py:decode_request",), as_json({"verb": "status"})
    ),
]
