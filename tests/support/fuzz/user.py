"""Targets: what runs as the user: tasks, renewed credentials, the journal; and the SDK's answers and results."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from types import SimpleNamespace
from typing import Any

import msgspec

from mep.base.ids import is_uuid
from mep.broker import Delivery
from mep.endpoint import intake, journal
from mep.endpoint.intake import Unanswerable
from mep.endpoint.journal import Journal
from mep.endpoint.prepare import read_refresh
from mep.sdk import http
from mep.sdk.errors import ComputeAPIError
from mep.sdk.outcome import of_document, of_message
from mep.serialize import Serializer
from mep.wire import control, envelope, sealed
from mep.wire.decoding import INVALID
from support.fuzz.core import Target, as_json, memory_file
from support.fuzz.wire import COMMAND, MESSAGES, SEALED_TASK, SEALER, UEP, WHO

#: Random bytes are not unpickled as data: that runs whatever they say.
JSON_ONLY = Serializer(allowed=["mep.serialize.JSONData", "mep.serialize.DillCode"])
HEADERS = {
    envelope.HEADER_TASK: UEP,
    envelope.HEADER_FUNCTION: WHO,
    envelope.HEADER_RESOURCES: '{"a": 1}',
    envelope.HEADER_SERIALIZERS: ["x"],
}


def _delivery(body: bytes, headers: dict[str, Any]) -> Delivery:
    return Delivery(body, headers, None, "", False, (0, 0))


def _task(data: bytes) -> object:
    """As the body with good headers, as each header with a good body."""
    good = envelope.encode(MESSAGES[0])
    for name in HEADERS:
        for value in (data, data.decode("latin-1"), [data.decode("latin-1")], len(data)):
            try:
                intake.read_task(_delivery(good, HEADERS | {name: value}), None, UEP)
            except Unanswerable:
                pass
    call = intake.read_task(_delivery(data, HEADERS), None, UEP)
    assert is_uuid(call.task_id)
    return intake.read_task(_delivery(data, {}), (), UEP)


def _sealed_task(data: bytes) -> object:
    """As a message, and as the content of one whose seal is good."""
    try:
        intake.open_task(_delivery(data, {}), SEALER, None, UEP)
    except Unanswerable:
        pass
    return intake.open_task(_delivery(SEALER.seal(data), {}), SEALER, (WHO,), UEP)


def _frame(body: bytes) -> bytes:
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def _journal(data: bytes) -> object:
    """As the whole file, as what follows a good record, and as a record whose checksum is right."""
    good = journal._MAGIC + _frame(msgspec.msgpack.encode(journal.Started(UEP, 1.0)))
    with tempfile.TemporaryDirectory(prefix="mep-fuzz-") as folder:
        for number, text in enumerate((data, good + data, good + _frame(data))):
            path = os.path.join(folder, str(number))
            with open(path, "wb") as file:
                file.write(text)
            book = Journal(path)
            before = list(book.recover())
            book.write(journal.Started("after", 2.0))
            book.close()
            book = Journal(path)
            after = list(book.recover())
            book.close()
            assert after == [*before, journal.Started("after", 2.0)]
            assert number == 0 or before[0] == journal.Started(UEP, 1.0)
    return None


def _sdk_answer(data: bytes) -> object:
    found = http._decoded(SimpleNamespace(data=data, status=200))
    if isinstance(found, dict):
        of_document(found, JSON_ONLY)
    return found


def _sdk_error(data: bytes) -> object:
    error = http.error_of(500, data, "what")
    assert isinstance(error, ComputeAPIError)
    return str(error)


def _sdk_result(data: bytes) -> object:
    """Whatever is no pickle of ours ends as an error that says so."""
    message = envelope.decode(data)
    if isinstance(message, envelope.Result):
        outcome = of_message(message, JSON_ONLY, "")
        assert outcome.error is None or str(outcome.error)
    return message


RECORDS = (
    journal.Accepted(UEP, WHO, "b", {"a": 1}, ["x"]),
    journal.Finished(UEP, "", b"r"),
    journal.Forgotten([UEP]),
    journal.Taken([]),
)

TARGETS: list[Target] = [
    Target(
        "task",
        _task,
        ("endpoint/intake.py:_decode_json", "endpoint/intake.py:read_task", "endpoint/intake.py:_decode"),
        (envelope.encode(MESSAGES[0]),),
        refuses=(Unanswerable,),
    ),
    Target(
        "task under a seal",
        _sealed_task,
        (),
        (sealed.encode(SEALED_TASK),),
        refuses=(Unanswerable,),
    ),
    Target(
        "journal",
        _journal,
        ("endpoint/journal.py:_decode", "endpoint/journal.py:Journal._read"),
        tuple(map(msgspec.msgpack.encode, RECORDS)),
    ),
    Target(
        "renewed credentials",
        lambda data: read_refresh(memory_file(data), UEP),
        ("endpoint/prepare.py:read_refresh", "endpoint/prepare.py:_read"),
        as_json(COMMAND),
    ),
    Target(
        "relay's answer to the SDK",
        _sdk_answer,
        ("sdk/http.py:_decoded",),
        as_json({"task_id": UEP, "status": "success", "result": "11\n[1]", "details": {"python_version": "3"}}),
        refuses=(ComputeAPIError,),
    ),
    Target(
        "relay's refusal to the SDK",
        _sdk_error,
        ("sdk/http.py:error_of",),
        as_json({"code": "C", "detail": [{"loc": ["a"], "msg": "m"}], "request_id": "r"}),
    ),
    Target(
        "JSON value",
        lambda data: JSON_ONLY.deserialize("11\n" + data.decode("utf-8", "replace")),
        ("serialize/strategies.py:JSONData._decode",),
        as_json({"a": [1, None]}),
    ),
    Target("result at the SDK", _sdk_result, (), tuple(map(envelope.encode, MESSAGES))),
    Target(
        "reply at the command line",
        control.decode_reply,
        ("wire/control.py:decode_reply",),
        as_json({"ok": True}),
        refuses=INVALID,
    ),
]
