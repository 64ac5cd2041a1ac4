"""The versioned envelope of tasks, results and status reports: 0x01, then compact JSON.

    {"message_type": "task" | "result" | "ep_status_report", "data": {...}}

Unknown fields are ignored, unknown types and versions are an error (protocol: message envelope).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import InputError

VERSION: Final = b"\x01"

#: AMQP headers of a task; the result echoes `task_uuid`, not the id in the body.
HEADER_FUNCTION = "function_uuid"
HEADER_TASK = "task_uuid"
HEADER_RESOURCES = "resource_specification"  # a JSON object as text
HEADER_SERIALIZERS = "result_serializers"  # list of import paths


class Task(Struct, frozen=True, kw_only=True):
    """One call. `task_buffer` = packed code + packed args + packed kwargs, never decoded on the way."""

    task_id: str
    task_buffer: str
    container_id: str | None = None
    container: dict[str, Any] | None = None


class ErrorDetails(Struct, frozen=True, kw_only=True):
    """Marks a failed result; then `Result.data` is plain text."""

    code: str
    user_message: str


class Transition(Struct, frozen=True, kw_only=True):
    """One step of a task's life. `timestamp` in nanoseconds since 1970."""

    timestamp: int
    state: str
    actor: str


class Result(Struct, frozen=True, kw_only=True):
    """How a task ended: a serialized value, or a text if `error_details` is set."""

    task_id: str
    data: str
    error_details: ErrorDetails | None = None
    details: dict[str, Any] | None = None
    task_statuses: list[Transition] | None = None


def announcement(task_id: str) -> Result:
    """Return what tells that there is a result, and nothing of it: whoever waits for it fetches it."""
    return Result(task_id=task_id, data="")


def is_announcement(result: Result) -> bool:
    """Tell whether the result itself is elsewhere; a serialized value is never empty."""
    return not result.data and result.error_details is None


class StatusReport(Struct, frozen=True, kw_only=True):
    """A sign of life, an end, or a failure notice of an endpoint or a user endpoint.

    `global_state`: `heartbeat_period` (seconds; 0 = a core endpoint stops), `active` (user endpoints; False =
    stops), `error` (a start failed), and facts of the process and its engine.
    """

    endpoint_id: str
    global_state: dict[str, Any] = msgspec.field(default_factory=dict)
    task_statuses: dict[str, Any] = msgspec.field(default_factory=dict)


Message = Task | Result | StatusReport
_TYPES: Final[dict[str, type[Task] | type[Result] | type[StatusReport]]] = {
    "task": Task,
    "result": Result,
    "ep_status_report": StatusReport,
}
_NAMES: Final = {cls: name for name, cls in _TYPES.items()}


class _Envelope(Struct):
    message_type: str
    data: msgspec.Raw


_envelope = msgspec.json.Decoder(_Envelope)
_decoders = {name: msgspec.json.Decoder(cls) for name, cls in _TYPES.items()}
_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """Return the envelope of `message`."""
    head = b'{"message_type":"' + _NAMES[type(message)].encode() + b'","data":'
    return VERSION + head + _encoder.encode(message) + b"}"


def decode(body: bytes) -> Message:
    """Return the message in `body`; InputError(TASK_MALFORMED) names what was wrong and wanted."""
    if body[:1] != VERSION:
        raise InputError(Code.TASK_MALFORMED, f"Envelope version {body[:1]!r}; wanted {VERSION!r}.")
    try:
        envelope = _envelope.decode(memoryview(body)[1:])
        decoder = _decoders.get(envelope.message_type)
        if decoder is None:
            raise InputError(
                Code.TASK_MALFORMED,
                f"Message type {envelope.message_type[:40]!r}; wanted one of {', '.join(_TYPES)}.",
            )
        return decoder.decode(_with_legacy_name(envelope))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(Code.TASK_MALFORMED, f"Not a valid message: {error}.") from None


def _with_legacy_name(envelope: _Envelope) -> msgspec.Raw | bytes:
    """Old endpoints call a report's `global_state` `ep_status_report`; one of them wraps it in `info`."""
    if envelope.message_type != "ep_status_report":
        return envelope.data
    data = msgspec.json.decode(envelope.data)
    if isinstance(data, dict) and "ep_status_report" in data and "global_state" not in data:
        data["global_state"] = data.pop("ep_status_report")
        return _encoder.encode(data)
    return envelope.data
