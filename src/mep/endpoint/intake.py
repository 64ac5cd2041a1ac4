"""From a message on the task queue to a call for the engine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.ids import is_uuid
from mep.broker import Delivery
from mep.engines.base import Call, Outcome, failure
from mep.engines.worker import MALFORMED, REMOTE_ERROR
from mep.wire import envelope, sealed
from mep.wire.limits import MAX_TASK_BYTES
from mep.wire.seal import Sealer, SealError, Stamp

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


class Unanswerable(Exception):
    """A message that names no task: nobody could be told how it ended."""


def open_task(
    delivery: Delivery, sealer: Sealer, allowed_functions: Collection[str] | None, uep_id: str
) -> tuple[Call | Outcome, Stamp]:
    """Return what `read_task` does, and which message it was. Unanswerable: nobody who may send tasks sent it."""
    try:
        stamp, content = sealer.open(delivery.body)
        task = sealed.decode_task(content)
    except SealError as error:
        raise Unanswerable(str(error)) from None
    except InputError as error:
        raise Unanswerable(error.user_text) from None
    if not is_uuid(task.task_id):
        raise Unanswerable("it names no task")
    if len(task.buffer) > MAX_TASK_BYTES:
        text = f"The task has {len(task.buffer)} characters; {MAX_TASK_BYTES} are allowed."
        return failure(task.task_id, MALFORMED, str(InputError(Code.TASK_TOO_LARGE, text))), stamp
    if allowed_functions is not None and task.function_id not in allowed_functions:
        return not_allowed(task.task_id, task.function_id, uep_id), stamp
    serializers = tuple(task.serializers)
    return Call(task.task_id, task.function_id, task.buffer, task.resources, serializers), stamp


def read_task(delivery: Delivery, allowed_functions: Collection[str] | None, uep_id: str) -> Call | Outcome:
    """Return the call, or the failed outcome of a task that cannot become one. Unanswerable: see there."""
    headers = delivery.headers
    task_id: Any = headers.get(envelope.HEADER_TASK)
    named = isinstance(task_id, str) and is_uuid(task_id)
    try:
        message = _decode(delivery.body)
    except InputError as error:
        if not named:
            raise Unanswerable(f"no task id in the headers; {error.user_text}") from None
        return failure(task_id, MALFORMED, str(error))
    if not named:
        if not is_uuid(message.task_id):
            raise Unanswerable(f"the header {envelope.HEADER_TASK} and the body name no task")
        text = f"The task's header {envelope.HEADER_TASK} is {_show(task_id)}; wanted a UUID."
        return failure(message.task_id, MALFORMED, text)
    try:
        return _call(task_id, message, headers, allowed_functions, uep_id)
    except InputError as error:
        return failure(task_id, REMOTE_ERROR, str(error))


def _decode(body: bytes) -> envelope.Task:
    if len(body) > MAX_TASK_BYTES:
        raise InputError(Code.TASK_TOO_LARGE, f"The task has {len(body)} bytes; {MAX_TASK_BYTES} are allowed.")
    message = envelope.decode(body)
    if not isinstance(message, envelope.Task):
        raise InputError(
            Code.TASK_MALFORMED, f"A message of type {type(message).__name__} came on the task queue."
        )
    return message


def _call(
    task_id: str,
    message: envelope.Task,
    headers: dict[str, Any],
    allowed_functions: Collection[str] | None,
    uep_id: str,
) -> Call | Outcome:
    function_id = headers.get(envelope.HEADER_FUNCTION)
    if not isinstance(function_id, str):
        raise _malformed(envelope.HEADER_FUNCTION, function_id, "a function's id")
    if allowed_functions is not None and function_id not in allowed_functions:
        return not_allowed(task_id, function_id, uep_id)
    serializers = headers.get(envelope.HEADER_SERIALIZERS) or []
    if not isinstance(serializers, list) or not all(isinstance(path, str) for path in serializers):
        raise _malformed(envelope.HEADER_SERIALIZERS, serializers, "a list of import paths")
    resources = headers.get(envelope.HEADER_RESOURCES)
    return Call(task_id, function_id, message.task_buffer, _resources(resources), tuple(serializers))


def _resources(value: object) -> dict[str, Any]:
    if not value:
        return {}
    if isinstance(value, str | bytes):
        try:
            return _decode_json(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    raise _malformed(envelope.HEADER_RESOURCES, value, "a JSON object")


def not_allowed(task_id: str, function_id: str, uep_id: str) -> Outcome:
    """Return the failure of a task whose function this endpoint does not run."""
    code = Code.FUNCTION_NOT_ALLOWED.value
    text = f"{code}: Function {function_id} is not permitted on endpoint {uep_id}."
    result = envelope.Result(
        task_id=task_id,
        data=text,
        error_details=envelope.ErrorDetails(code=code, user_message=text),
        details={"fid": function_id, "eid": uep_id},
    )
    return Outcome(task_id, envelope.encode(result), code)


def _malformed(header: str, value: object, wanted: str) -> InputError:
    return InputError(Code.TASK_MALFORMED, f"The task's header {header} is {_show(value)}; wanted {wanted}.")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
