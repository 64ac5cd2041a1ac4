"""A task as HTTP clients see it. The result's data is passed on as it lies in the envelope, never decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from mep.relay.store.tasks import TaskState
from mep.wire.envelope import ErrorDetails, Transition


class _Result(msgspec.Struct):
    task_id: str
    data: msgspec.Raw
    error_details: ErrorDetails | None = None
    details: dict[str, Any] | None = None
    task_statuses: list[Transition] | None = None


class _Envelope(msgspec.Struct):
    data: _Result


_decoder = msgspec.json.Decoder(_Envelope)


def document(task: TaskState) -> dict[str, Any]:
    """Return the task document; final states are success and failed."""
    if task.done is None or task.body is None:
        status = "running" if task.uep_state == "up" else "waiting-for-ep"
        return {"task_id": task.id, "status": status, "task_group_id": task.group_id}
    result = _decoder.decode(memoryview(task.body)[1:]).data
    failed = result.error_details is not None
    return {
        "task_id": task.id,
        "task_group_id": task.group_id,
        "status": "failed" if failed else "success",
        "exception" if failed else "result": result.data,
        "completion_t": str(task.done),
        "details": {**(result.details or {}), "task_transitions": _transitions(task, result)},
        **({"error_details": result.error_details} if failed else {}),
    }


def _transitions(task: TaskState, result: _Result) -> dict[str, float]:
    """Return when which state began, in Unix seconds."""
    steps = {"received": task.created}
    for step in result.task_statuses or ():
        steps[step.state] = step.timestamp / 1e9
    assert task.done is not None
    steps["failed" if result.error_details is not None else "success"] = task.done
    return steps
