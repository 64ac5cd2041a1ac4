"""Endpoints: register, list, look at, lock, delete."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from mep.relay.clocks import iso
from mep.relay.registration import RegistrationBody, decode
from mep.relay.routes import answers
from mep.relay.routes.common import answer, body_as, caller, can_seal, relay_of
from mep.relay.routes.documented import says
from mep.relay.store import accounts, endpoints, ueps
from mep.relay.store.accounts import Identity
from mep.relay.store.endpoints import Endpoint

router = APIRouter(tags=["endpoints"])


@router.post("/v3/endpoints", **says(answers.Registered, 423, takes=RegistrationBody))
@router.post("/v2/endpoints", **says(answers.Registered, 423, takes=RegistrationBody))
async def register(request: Request) -> Response:
    """Register a new endpoint; its id and its queues come back."""
    identity = await caller(request)
    registration = relay_of(request).working.registration
    body = decode(await request.body())
    return answer(await registration.register(identity, body, None, can_seal=can_seal(request)))


@router.put("/v3/endpoints/{endpoint_id}", **says(answers.Registered, 423, takes=RegistrationBody))
@router.put("/v2/endpoints/{endpoint_id}", **says(answers.Registered, 423, takes=RegistrationBody))
async def register_again(request: Request, endpoint_id: str) -> Response:
    """Register an endpoint that has an id; also how it is changed."""
    identity = await caller(request)
    registration = relay_of(request).working.registration
    body = decode(await request.body())
    return answer(await registration.register(identity, body, endpoint_id, can_seal=can_seal(request)))


@router.get("/v2/endpoints", **says(list[answers.Listed]))
async def list_endpoints(request: Request, role: str = "owner") -> Response:
    """The caller's endpoints; with `role=any` also the public ones."""
    identity, relay = await caller(request), relay_of(request)
    found = await relay.store.read_much(endpoints.listed)
    mine = [e for e in found if e.may_manage(identity.id, identity.username) or (role == "any" and e.public)]
    return answer(
        [{"uuid": e.id, "name": e.name, "display_name": e.display_name, "owner": e.owner_id} for e in mine]
    )


@router.get("/v2/endpoints/{endpoint_id}", **says(answers.EndpointDocument, 400, 404))
async def show(request: Request, endpoint_id: str) -> Response:
    """What is known of an endpoint; its owner also sees what it registered."""
    identity, relay = await caller(request), relay_of(request)
    endpoint = await relay.directory.usable(endpoint_id, identity)
    owner = await relay.store.read(lambda c: accounts.find_identity(c, endpoint.owner_id))
    return answer(_document(endpoint, identity, owner))


@router.get("/v2/endpoints/{endpoint_id}/status", **says(answers.EndpointState, 400, 404))
async def status(request: Request, endpoint_id: str) -> Response:
    """online while its heartbeats arrive; the counts are those of the caller's user endpoints."""
    identity, relay = await caller(request), relay_of(request)
    endpoint = await relay.directory.usable(endpoint_id, identity)
    core = relay.working.fleet.core(endpoint)
    details: dict[str, Any] = dict.fromkeys(
        ("total_workers", "idle_workers", "pending_tasks", "outstanding_tasks", "managers"), 0
    )
    for uep in core.ueps.values():
        if uep.record.identity_id == identity.id or endpoint.owner_id == identity.id:
            for name in details:
                details[name] += uep.facts.get(name, 0)
            details["outstanding_tasks"] = max(details["outstanding_tasks"], uep.open)
    return answer({"status": "online" if core.online else "offline", "details": details})


@router.delete("/v2/endpoints/{endpoint_id}", **says(answers.Deleted, 400, 404))
async def delete(request: Request, endpoint_id: str) -> Response:
    """Remove an endpoint; its unfinished tasks fail."""
    identity = await caller(request)
    await relay_of(request).working.registration.delete(identity, endpoint_id)
    return answer({"result": 302})


@router.post("/v3/endpoints/{endpoint_id}/lock", **says(answers.Locked, 400, 404))
async def lock(request: Request, endpoint_id: str) -> Response:
    """Make the running agent stop, and refuse it for a while."""
    until = await relay_of(request).working.registration.lock(await caller(request), endpoint_id)
    return answer({"endpoint_id": endpoint_id, "lock_expiration_timestamp": until})


@router.post("/v2/endpoints/{endpoint_id}/lock", **says(answers.LockedUntil, 400, 404))
async def lock_v2(request: Request, endpoint_id: str) -> Response:
    """The same for old clients, which want a date."""
    until = await relay_of(request).working.registration.lock(await caller(request), endpoint_id)
    return answer({"endpoint_id": endpoint_id, "lock_expiration_timestamp": iso(until)})


@router.get("/v3/endpoints/{endpoint_id}/allowed_functions", **says(answers.AllowedFunctions, 400, 404))
async def allowed_functions(request: Request, endpoint_id: str) -> Response:
    """Which functions the endpoint runs."""
    endpoint = await relay_of(request).directory.usable(endpoint_id, await caller(request))
    allowed = endpoint.allowed_functions
    return answer(
        {"endpoint_id": endpoint.id, "restricted": allowed is not None, "functions": list(allowed or ())}
    )


@router.get("/v3/endpoints/{endpoint_id}/console", **says(answers.Console, 400, 404))
async def console(
    request: Request, endpoint_id: str, user_endpoint_id: str | None = None, include_fields: str | None = None
) -> Response:
    """The owner's view of the user endpoints."""
    relay = relay_of(request)
    endpoint = await relay.directory.managed(endpoint_id, await caller(request))
    records = await relay.store.read_much(lambda c: ueps.of_endpoint(c, endpoint.id))
    people = {
        i.id: i.username
        for i in await relay.store.read_much(
            lambda c: accounts.find_identities(c, ids={r.identity_id for r in records})
        )
    }
    rows = []
    for record in records:
        live = relay.working.fleet.ueps.get(record.id)
        rows.append(
            {
                "user_endpoint_id": record.id,
                "identity": people.get(record.identity_id, record.identity_id),
                "state": live.state if live is not None else record.state,
                "active": live is not None and live.state == "up",
                "unfinished_tasks": live.open if live is not None else 0,
                "last_heartbeat": record.last_seen or None,
                **(live.facts if live is not None else {}),
            }
        )
    if user_endpoint_id is not None:
        rows = [row for row in rows if row["user_endpoint_id"] == user_endpoint_id]
    if include_fields is not None:
        wanted = {"user_endpoint_id", *include_fields.split(",")}
        rows = [{k: v for k, v in row.items() if k in wanted} for row in rows]
    return answer({"endpoint_id": endpoint.id, "user_endpoints": rows})


# ---- the allow list of SDK 2 ----


class _Functions(msgspec.Struct):
    func: list[str]


_functions = msgspec.json.Decoder(_Functions)


@router.get("/v2/endpoints/{endpoint_id}/whitelist", **says(answers.Whitelist, 400, 404))
async def whitelist(request: Request, endpoint_id: str) -> Response:
    endpoint = await relay_of(request).directory.managed(endpoint_id, await caller(request))
    return answer({"status": "Success", "result": list(endpoint.allowed_functions or ())})


@router.post("/v2/endpoints/{endpoint_id}/whitelist", **says(answers.Done, 404, takes=_Functions))
async def whitelist_add(request: Request, endpoint_id: str) -> Response:
    relay = relay_of(request)
    endpoint = await relay.directory.managed(endpoint_id, await caller(request))
    added = (await body_as(request, _functions)).func
    wanted = [*dict.fromkeys([*(endpoint.allowed_functions or ()), *added])]
    await relay.store.write(lambda c: endpoints.set_allowed(c, endpoint.id, wanted))
    relay.directory.forget(endpoint.id)
    return answer({"status": "Success"})


@router.delete("/v2/endpoints/{endpoint_id}/whitelist/{function_id}", **says(answers.Done, 400, 404))
async def whitelist_remove(request: Request, endpoint_id: str, function_id: str) -> Response:
    relay = relay_of(request)
    endpoint = await relay.directory.managed(endpoint_id, await caller(request))
    wanted = [f for f in endpoint.allowed_functions or () if f != function_id]
    await relay.store.write(lambda c: endpoints.set_allowed(c, endpoint.id, wanted or None))
    relay.directory.forget(endpoint.id)
    return answer({"status": "Success"})


def _document(endpoint: Endpoint, identity: Identity, owner: Identity | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uuid": endpoint.id,
        "id": endpoint.id,
        "name": endpoint.name,
        "display_name": endpoint.display_name,
        "owner_id": endpoint.owner_id,
        "owner": owner.username if owner is not None else None,
        "public": endpoint.public,
        "multi_user": endpoint.multi_user,
        "high_assurance": endpoint.high_assurance,
        "endpoint_version": endpoint.version,
        "python_version": endpoint.metadata.get("python_version"),
        "hostname": endpoint.metadata.get("hostname"),
        "user_config_schema": endpoint.schema or None,
        "restricted_functions": endpoint.allowed_functions is not None,
        "registered": iso(endpoint.registered),
        "locked": endpoint.locked_until > time.time(),
    }
    if endpoint.may_manage(identity.id, identity.username):
        shown["metadata"] = endpoint.metadata
        shown["admins"] = list(endpoint.admins)
        shown["subscription_uuid"] = endpoint.subscription
        shown["authentication_policy"] = endpoint.authentication_policy
    return shown
