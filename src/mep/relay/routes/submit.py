"""Submit: the newest form, and the one of SDK 2.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from mep.base.errors import MepError
from mep.base.ids import new_id
from mep.relay.errors import HttpError, from_mep_error
from mep.relay.repeats import Attempt
from mep.relay.repeats import Request as Asked
from mep.relay.routes import answers
from mep.relay.routes.common import answer, body_as, caller, can_seal, relay_of
from mep.relay.routes.direct import DirectRoute
from mep.relay.routes.documented import says
from mep.relay.store.accounts import Identity
from mep.relay.store.tasks import StoredSubmit
from mep.relay.submit import SubmitBody, decode
from mep.wire.rest import SubmitAnswer

router = APIRouter(tags=["submit"], route_class=DirectRoute)


@router.post("/v3/endpoints/{endpoint_id}/submit", **says(answers.SubmitDone, 404, takes=SubmitBody))
async def submit(request: Request, endpoint_id: str) -> Response:
    """Accept tasks; the answer does not wait for a user endpoint."""
    identity = await caller(request)
    return await _submit(request, identity, endpoint_id, await request.body())


async def _submit(request: Request, identity: Identity, endpoint_id: str, content: bytes) -> Response:
    relay = relay_of(request)
    submitter = relay.working.submitter
    body = decode(content)
    request_id = request.scope["state"]["request_id"]

    async def make(attempt: Attempt) -> bytes:
        return await submitter.submit(identity, endpoint_id, body, attempt, request_id, opens=can_seal(request))

    async def again(stored: StoredSubmit) -> None:
        await submitter.publish_again(identity, endpoint_id, body, stored)

    asked = Asked(
        identity_id=identity.id,
        where=endpoint_id,
        body=content,
        idempotency_key=request.headers.get("idempotency-key", "")[:200],
    )
    repeats = relay.repeats
    text, attempt = await repeats.answer(asked, make, again, request.is_disconnected)

    def told(heard: bool) -> None:  # noqa: FBT001 - a callback of one fact
        (repeats.heard if heard else repeats.unheard)(attempt)

    return Told(text, told)


class Told(Response):
    """An answer that reports whether its caller was still there to hear it."""

    media_type = "application/json"

    def __init__(self, content: bytes, told: Callable[[bool], None]) -> None:
        super().__init__(content)
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard = False
        try:
            heard = not await Request(scope, receive).is_disconnected()
            await super().__call__(scope, receive, send)
        finally:
            self._told(heard)


# ---- SDK 2.0 ----


class OldSubmitBody(msgspec.Struct):
    """POST /v2/submit: `tasks` are [function id, endpoint id, payload]."""

    tasks: list[tuple[str, str, str]]
    task_group_id: str | None = None
    create_websocket_queue: bool = False


_old = msgspec.json.Decoder(OldSubmitBody)
_answer = msgspec.json.Decoder(SubmitAnswer)


@router.post("/v2/submit", **says(answers.OldSubmitDone, takes=OldSubmitBody))
async def submit_v2(request: Request) -> Response:
    """Accept tasks for any number of endpoints; each task has its own outcome."""
    identity = await caller(request)
    body: OldSubmitBody = await body_as(request, _old)
    group_id = body.task_group_id or new_id()
    outcomes: list[dict[str, Any]] = [{} for _ in body.tasks]
    for endpoint_id in dict.fromkeys(endpoint for _, endpoint, _ in body.tasks):
        places = [i for i, task in enumerate(body.tasks) if task[1] == endpoint_id]
        tasks: dict[str, list[str]] = {}
        for i in places:
            tasks.setdefault(body.tasks[i][0], []).append(body.tasks[i][2])
        content = msgspec.json.encode(
            {"tasks": tasks, "task_group_id": group_id, "create_queue": body.create_websocket_queue}
        )
        ids, error = await _outcome(request, identity, endpoint_id, content)
        for i in places:
            outcomes[i] = _old_outcome(ids[body.tasks[i][0]].pop(0) if ids else None, error)
    return answer({"response": "batch", "task_group_id": group_id, "results": outcomes})


async def _outcome(
    request: Request, identity: Identity, endpoint_id: str, content: bytes
) -> tuple[dict[str, list[str]], HttpError | None]:
    try:
        told = await _submit(request, identity, endpoint_id, content)
    except HttpError as error:
        return {}, error
    except MepError as error:
        return {}, from_mep_error(error)
    assert isinstance(told, Told)
    told._told(not await request.is_disconnected())
    return _answer.decode(bytes(told.body)).tasks, None


def _old_outcome(task_id: str | None, error: HttpError | None) -> dict[str, Any]:
    if error is None:
        return {"status": "Success", "task_uuid": task_id, "http_status_code": 200}
    return {
        "status": "Failed",
        "task_uuid": new_id(),
        "code": error.code,
        "http_status_code": error.status,
        "reason": error.detail,
    }
