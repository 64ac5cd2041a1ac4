"""Version, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import mep
from mep.relay.routes import answers
from mep.relay.routes.common import answer, caller, relay_of
from mep.relay.routes.documented import says

router = APIRouter(tags=["service"])

#: What clients compare themselves with: everything since these works (protocol: version range).
MIN_SDK = "2.0.0"
MIN_ENDPOINT = "2.0.3"


@router.head("/v2/version", include_in_schema=False)
@router.get("/v2/version", **says(str | answers.Versions, login=""))
async def version(request: Request, service: str | None = None) -> Response:
    """Anonymous. Without `service`: a bare string."""
    if service is None:
        return answer(mep.__version__)
    return answer(
        {"api": mep.__version__, "min_ep_version": MIN_ENDPOINT, "min_sdk_version": MIN_SDK, "mep": True}
    )


@router.get("/v2/authenticate", **says(answers.Caller))
async def authenticate(request: Request) -> Response:
    """Tell whether the token is good, and whose it is."""
    identity = await caller(request)
    return answer({"status": "Success", "username": identity.username, "identity_id": identity.id})


@router.get("/v2/stats", **says(answers.Stats, login=""))
async def stats(request: Request) -> Response:
    """Anonymous: nothing but that the relay is there."""
    return answer({"total_function_invocations": 0})


@router.get("/healthz", **says(answers.Health, login="", also={503: answers.Health}))
async def healthz(request: Request) -> Response:
    """200 when broker and database serve; 503 with the reason otherwise."""
    why_not = await relay_of(request).why_not_ready()
    state: dict[str, Any] = {"status": "ok"} if not why_not else {"status": "unavailable", "reason": why_not}
    return answer(state, 503 if why_not else 200)


@router.get("/metrics", response_class=PlainTextResponse, **says("text/plain", login=""))
async def show_metrics() -> Response:
    """Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
