"""The web application: routes, errors, request ids, sizes, metrics."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mep
from mep.base.errors import MepError
from mep.base.ids import new_id
from mep.relay import metrics
from mep.relay.errors import HttpError, from_mep_error
from mep.relay.routes import endpoints, functions, oauth, service, submit, tasks
from mep.relay.routes.documented import DocumentedApi
from mep.relay.service import Relay
from mep.relay.settings import Settings

log = logging.getLogger(__name__)


def make_app(settings: Settings) -> ASGIApp:
    """Return the application; the relay behind it lives from its start-up to its shut-down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.relay = relay = Relay(settings)
        relay.start()
        # What is loaded by now stays: the collector need not look through it in the middle of a request.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await relay.close()
            gc.unfreeze()

    app = DocumentedApi(
        title="mep relay", version=mep.__version__, lifespan=lifespan, redoc_url=None, redirect_slashes=False
    )
    for room in (submit, tasks, functions, endpoints, service, oauth):  # tried in order: the hot ones first
        app.include_router(room.router)
    app.add_exception_handler(HttpError, _on_http_error)
    app.add_exception_handler(MepError, _on_mep_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_plain)
    app.add_exception_handler(Exception, _on_crash)
    return _Outer(app, settings.max_submit_bytes)


def _error(error: HttpError) -> Response:
    return Response(error.body(), error.status, error.headers, "application/json")


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return _error(error)


async def _on_mep_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MepError)
    log.warning("request %s: %s", request.scope["state"]["request_id"], error.for_admin())
    return _error(from_mep_error(error))


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return _error(HttpError(422, "SEMANTICALLY_INVALID", f"The request is not valid: {faults}."))


async def _on_plain(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405."""
    assert isinstance(error, HTTPException)
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "REQUEST_MALFORMED")
    texts = {
        404: f"There is no {request.url.path} here.",
        405: f"{request.method} is not possible on {request.url.path}.",
    }
    text = texts.get(error.status_code, str(error.detail))
    return _error(HttpError(error.status_code, code, text, headers=error.headers))


async def _on_crash(request: Request, _error_: Exception) -> Response:
    """A fault of ours. `_Outer` writes it to the log, under the same id."""
    request_id = request.scope["state"]["request_id"]
    text = f"The relay could not handle this request. Tell its administrator the request id {request_id}."
    return _error(HttpError(500, "INTERNAL_ERROR", text))


class _Outer:
    """Around everything: a request id, a cap on the body, metrics, and 500s that tell nothing but the id."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began = new_id(), time.perf_counter()
        scope.setdefault("state", {})["request_id"] = request_id
        status, finished = 0, False

        async def sending(message: Message) -> None:
            nonlocal status, finished
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, _capped(scope, receive, self._max_body_bytes), sending)
        except ClientDisconnect:
            log.debug("request %s: the caller left before it had said all", request_id)
        except HttpError as error:
            if not status:
                await _error(error)(scope, receive, sending)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"])
            if not finished:
                raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, scope["method"], status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - began)


def _capped(scope: Scope, receive: Receive, most: int) -> Receive:
    """Return a `receive` that refuses bodies above `most` bytes, announced or not."""
    announced = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    over = not announced.isdigit() or len(announced) > 18 or int(announced) > most
    got = 0

    async def receiving() -> Message:
        nonlocal got
        if over:
            raise _too_large(most)
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _too_large(most)
        return message

    return receiving


def _too_large(most: int) -> HttpError:
    return HttpError(
        413,
        "TASK_PAYLOAD_TOO_LARGE",
        f"The request is larger than {most} bytes. Submit fewer tasks at once, or put the data in a file.",
        headers={"Connection": "close"},
    )
