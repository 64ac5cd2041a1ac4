"""Functions: register, look at, delete."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from mep.base.ids import new_id
from mep.relay.directory import checked_id
from mep.relay.errors import HttpError, function_not_found
from mep.relay.routes import answers
from mep.relay.routes.common import answer, body_as, caller, relay_of
from mep.relay.routes.documented import says
from mep.relay.store import functions
from mep.relay.store.accounts import Identity
from mep.relay.store.functions import Function
from mep.wire.packing import pack

router = APIRouter(tags=["functions"])


class FunctionBody(msgspec.Struct):
    """POST /v3/functions and, with the older names, /v2/functions."""

    function_name: str
    function_code: str
    serialized: bool = True
    entry_point: str | None = None
    description: str | None = None
    public: bool | None = None
    group: str | None = None
    ha_endpoint_id: str | None = None
    container_uuid: str | None = None
    meta: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


_body = msgspec.json.Decoder(FunctionBody)


@router.post("/v3/functions", **says(answers.FunctionAnswer, takes=FunctionBody))
@router.post("/v2/functions", **says(answers.FunctionAnswer, takes=FunctionBody))
async def register(request: Request) -> Response:
    """Register a function; plain source is packed as the strategy `st`."""
    identity, relay = await caller(request), relay_of(request)
    body: FunctionBody = await body_as(request, _body)
    if len(body.function_code) > relay.settings.max_task_bytes:
        raise HttpError(
            413,
            "TASK_PAYLOAD_TOO_LARGE",
            f"The function has {len(body.function_code)} characters; {relay.settings.max_task_bytes} are allowed.",
        )
    function = _function(identity, body)
    await relay.store.write(lambda c: functions.add(c, function))
    return answer({"function_uuid": function.id})


@router.get("/v2/functions/{function_id}", **says(answers.FunctionDocument, 400, 404))
async def show(request: Request, function_id: str) -> Response:
    """A function of the caller's, or a public one."""
    function = await _visible(request, await caller(request), function_id)
    return answer(
        {
            "function_uuid": function.id,
            "function_name": function.name,
            "function_code": function.code,
            "description": function.description,
            "metadata": function.metadata,
            "public": function.public,
            "owner": function.owner_id,
        }
    )


@router.delete("/v2/functions/{function_id}", **says(answers.Deleted, 400, 404))
async def delete(request: Request, function_id: str) -> Response:
    """Forget a function; tasks that were submitted have their own copy."""
    identity, relay = await caller(request), relay_of(request)
    function = await _visible(request, identity, function_id)
    if function.owner_id != identity.id:
        raise HttpError(403, "FUNCTION_ACCESS_FORBIDDEN", f"Function {function_id} is not yours.")
    await relay.store.write(lambda c: functions.remove(c, function.id))
    relay.directory.forget(function.id)
    return answer({"result": 302})


async def _visible(request: Request, identity: Identity, function_id: str) -> Function:
    function = await relay_of(request).directory.function(checked_id(function_id))
    if function is None:
        raise function_not_found(function_id)
    if not function.public and function.owner_id != identity.id:
        raise HttpError(403, "FUNCTION_ACCESS_FORBIDDEN", f"Function {function_id} is not yours and not public.")
    return function


def _function(identity: Identity, body: FunctionBody) -> Function:
    code = body.function_code
    if not body.serialized:
        code = pack([f"st\n{body.function_name}:{code}"])
    return Function(
        id=new_id(),
        owner_id=identity.id,
        name=body.function_name,
        code=code,
        description=body.description or "",
        metadata=body.meta or body.metadata or {},
        public=bool(body.public),
        created=time.time(),
    )
