"""Tasks and task groups: states and results over HTTP, and where to read results by AMQP."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request, Response

from mep.relay.clocks import iso
from mep.relay.directory import checked_id
from mep.relay.errors import HttpError, malformed, task_not_found
from mep.relay.routes import answers
from mep.relay.routes.common import answer, body_as, caller, can_seal, relay_of
from mep.relay.routes.documented import says
from mep.relay.store import tasks
from mep.relay.store.accounts import Identity
from mep.relay.taskview import document

router = APIRouter(tags=["tasks"])

_MOST_AT_ONCE = 100_000


class BatchBody(msgspec.Struct):
    task_ids: list[str]


_batch = msgspec.json.Decoder(BatchBody)


@router.get("/v2/tasks/{task_id}", **says(answers.TaskShown, 400, 404))
async def show(request: Request, task_id: str) -> Response:
    """One task of the caller's."""
    identity = await caller(request)
    task_id = checked_id(task_id)
    found = (await _states(request, [task_id])).get(task_id)
    if found is None or found.identity_id != identity.id:
        raise task_not_found(task_id)
    return answer(document(found))


@router.post("/v2/batch_status", **says(answers.Batch, takes=BatchBody))
async def batch_status(request: Request) -> Response:
    """Any number of tasks of the caller's."""
    identity = await caller(request)
    wanted = (await body_as(request, _batch)).task_ids
    if len(wanted) > _MOST_AT_ONCE:
        raise malformed(f"{len(wanted)} task ids; {_MOST_AT_ONCE} are allowed.")
    found = await _states(request, wanted)
    documents = {}
    for task_id in wanted:
        state = found.get(task_id)
        if state is None or state.identity_id != identity.id:
            documents[task_id] = {
                "task_id": task_id,
                "status": "failed",
                "reason": f"Task {task_id} could not be resolved.",
                "http_status_code": 404,
            }
        else:
            documents[task_id] = document(state)
    return answer({"response": "batch", "results": documents})


@router.get("/v2/taskgroup/{group_id}", **says(answers.GroupDocument, 400, 404))
async def group(request: Request, group_id: str) -> Response:
    """The tasks of one group of the caller's."""
    identity, relay = await caller(request), relay_of(request)
    group_id = checked_id(group_id)
    found = await relay.directory.group(group_id)
    _check_group(found, identity, group_id)
    assert found is not None
    if found.seals and not can_seal(request):  # a stock client, which reads the group's queue next
        await relay.working.submitter.open_group(found)
    members = await relay.store.read_much(lambda c: tasks.group_tasks(c, group_id))
    return answer(
        {
            "taskgroup_id": group_id,
            "create_websockets_queue": found.has_queue,
            "tasks": [{"id": task_id, "created_at": iso(created)} for task_id, created in members],
        }
    )


@router.get("/v2/get_amqp_result_connection_url", **says(answers.ResultUrl))
async def result_url(request: Request) -> Response:
    """Where the caller's results arrive, and what the queues' names begin with."""
    identity = await caller(request)
    working = relay_of(request).working
    prefix, url = await working.credentials.of_sdk(identity.id)
    key = {"seal_key": working.seals.sdk_key(identity.id)} if can_seal(request) else {}
    return answer({"queue_prefix": prefix, "connection_url": url, **key})


def _check_group(found: tasks.Group | None, identity: Identity, group_id: str) -> None:
    if found is None:
        raise HttpError(404, "TASK_GROUP_NOT_FOUND", f"Task group {group_id} could not be resolved.")
    if found.identity_id != identity.id:
        raise HttpError(403, "TASK_GROUP_ACCESS_FORBIDDEN", f"Task group {group_id} belongs to somebody else.")


async def _states(request: Request, task_ids: list[str]) -> dict[str, tasks.TaskState]:
    """Return what is known; results may be large, so the read does not hold up the loop."""
    return await relay_of(request).store.read_much(lambda c: tasks.states(c, task_ids))
