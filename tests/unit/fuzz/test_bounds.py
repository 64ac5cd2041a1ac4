"""Every size has a cap: what has it exactly is taken, one more is refused; no input costs more than it weighs."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import httpx
import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, InputError, RefusedError
from mep.endpoint import intake
from mep.endpoint.intake import Unanswerable
from mep.engines.base import Call, Outcome
from mep.host import trusted
from mep.relay.app import make_app
from mep.relay.errors import HttpError
from mep.relay.results import Results
from mep.relay.settings import Settings
from mep.template.options import MAX_DEPTH, validate_options
from mep.wire import command, envelope, privsep, signing
from mep.wire.limits import (
    MAX_COMMAND_BYTES,
    MAX_PRIVSEP_BYTES,
    MAX_RESULT_CHARS,
    MAX_TASK_BYTES,
    MAX_TOKEN_BYTES,
)
from mep.wire.privsep import Channel
from mep.wire.taskevents import MAX_EVENTS, TaskEvent, TaskEvents
from support.fuzz import TARGETS, Target
from support.fuzz.relay import _Quiet
from support.fuzz.user import HEADERS, _delivery
from support.fuzz.wire import COMMAND, UEP

ENORMOUS = {
    "brackets": b"[" * 300_000,
    "objects": b'{"a":' * 60_000,
    "text": b'"' + b"\\u0041" * 200_000 + b'"',
    "digits": b"9" * 300_000,
    "fraction": b"0." + b"9" * 300_000,
    "promised-list": b"\xdd\x7f\xff\xff\xff",
    "promised-map": b"\xdf\x7f\xff\xff\xff",
    "promised-bytes": b"\xc6\xff\xff\xff\xff",
    "promised-buffer": b"999999999999999999\nx",
    "spaces": b" " * 300_000,
    "lines": b"\n" * 100_000,
    "fields": b"&a=b" * 10_000,
}


def test_a_command_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    pad = MAX_COMMAND_BYTES - len(json.dumps(COMMAND | {"pad": ""}))
    command.decode(json.dumps(COMMAND | {"pad": "x" * pad}).encode())
    with pytest.raises(InputError) as caught:
        command.decode(json.dumps(COMMAND | {"pad": "x" * (pad + 1)}).encode())
    assert caught.value.code is Code.COMMAND_TOO_LARGE


def test_a_signature_of_the_limit_is_looked_at_and_one_byte_more_is_not() -> None:
    for more, said in ((0, "unknown|Invalid|Not enough"), (1, "are allowed")):
        with pytest.raises(RefusedError) as caught:
            signing.verify("x" * (MAX_TOKEN_BYTES + more), {}, audience="a", now=0.0)
        assert any(word in caught.value.admin_text for word in said.split("|"))


def test_a_privsep_message_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    ours, theirs = privsep.channel_pair()
    with ours, theirs:
        channel: Channel[object, object] = Channel(ours, privsep.GateToMonitor)
        room = MAX_PRIVSEP_BYTES - len(channel._encoder.encode(privsep.Start(request_id="r", token=""))) - 2
        message = privsep.Start(request_id="r", token="x" * room)
        body = channel._encoder.encode(message)
        assert len(body) == MAX_PRIVSEP_BYTES
        theirs.send(body)
        assert channel.receive() == (message, None)
        theirs.send(channel._encoder.encode(privsep.Start(request_id="r", token="x" * (room + 1))))
        with pytest.raises(HostError, match="too large"):
            channel.receive()


def test_a_result_of_the_limit_is_taken_and_one_character_more_is_a_failure() -> None:
    for more, error in ((0, None), (1, Code.RESULT_TOO_LARGE)):
        body = envelope.encode(envelope.Result(task_id=UEP, data="x" * (MAX_RESULT_CHARS + more)))
        arrived = _read(_Quiet(), body)
        found = envelope.decode(arrived)
        assert isinstance(found, envelope.Result)
        assert (found.error_details.code if found.error_details else None) == error


def _read(results: Results, body: bytes) -> bytes:
    from mep.relay.amqp import Incoming

    arrived = results._read(Incoming(sender=UEP, body=body, headers={}, redelivered=False))
    assert arrived is not None
    return arrived.body


def test_a_task_of_the_limit_is_taken_and_one_byte_more_fails_as_such() -> None:
    room = MAX_TASK_BYTES - len(envelope.encode(envelope.Task(task_id=UEP, task_buffer="")))
    for more, kind in ((0, Call), (1, Outcome)):
        body = envelope.encode(envelope.Task(task_id=UEP, task_buffer="x" * (room + more)))
        assert isinstance(intake.read_task(_delivery(body, HEADERS), None, UEP), kind)
    with pytest.raises(Unanswerable, match="are allowed"):
        intake.read_task(_delivery(b"\x01" * (MAX_TASK_BYTES + 1), {}), None, UEP)


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    app = make_app(Settings(data_dir=tmp_path, max_submit_bytes=1000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:

        async def unannounced(size: int) -> httpx.Response:
            async def parts() -> object:
                for _ in range(size):
                    yield b"x"

            return await client.post("/v2/oauth2/token/revoke", content=parts())  # type: ignore[arg-type]

        assert (await client.post("/v2/oauth2/token/revoke", content=b"x" * 1000)).status_code != 413
        assert (await client.post("/v2/oauth2/token/revoke", content=b"x" * 1001)).status_code == 413
        assert (await unannounced(1000)).status_code != 413
        assert (await unannounced(1001)).status_code == 413


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * trusted.MAX_FILE_BYTES)
    assert len(trusted.read_own(path)) == trusted.MAX_FILE_BYTES
    path.write_bytes(b"x" * (trusted.MAX_FILE_BYTES + 1))
    with pytest.raises(InputError, match="is larger than"):
        trusted.read_own(path)


def test_options_of_the_deepest_nesting_are_taken_and_one_level_more_are_not() -> None:
    def nested(levels: int) -> object:
        value: object = 1
        for _ in range(levels):
            value = {"a": value}
        return value

    validate_options(nested(MAX_DEPTH - 1), None)
    with pytest.raises(InputError, match="nested deeper"):
        validate_options(nested(MAX_DEPTH), None)


def test_as_many_events_as_a_message_holds_and_one_more() -> None:
    ours, theirs = privsep.channel_pair()
    with ours, theirs:
        channel: Channel[object, object] = Channel(ours, privsep.ChildToMonitor)
        event = TaskEvent("received", 1.0, UEP)
        theirs.send(channel._encoder.encode(TaskEvents(events=[event] * MAX_EVENTS)))
        assert channel.receive() is not None
        theirs.send(channel._encoder.encode(TaskEvents(events=[event] * (MAX_EVENTS + 1))))
        with pytest.raises(HostError, match="invalid"):
            channel.receive()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_costs_more_than_it_weighs(target: Target) -> None:
    """In time, and in memory: a promise of two thousand million values reserves none of them."""
    for name, data in ENORMOUS.items():
        tracemalloc.start()
        began = time.process_time()
        try:
            target.feed(data)
        finally:
            took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert took < 5.0, f"{name}: {took:.1f} s"
        assert peak < 60 * len(data) + 20_000_000, f"{name}: {peak} bytes of memory for {len(data)}"


def test_a_form_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    (target,) = (target for target in TARGETS if target.name == "login form")
    seed = target.seeds[0] + b"&state="
    target.run(seed + b"x" * (64 * 1024 - len(seed)))
    with pytest.raises(HttpError, match="too large"):
        target.run(seed + b"x" * (64 * 1024 - len(seed) + 1))
