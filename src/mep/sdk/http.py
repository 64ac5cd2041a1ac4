"""Requests to the relay: kept connections, retries with back-off, errors as exceptions."""

from __future__ import annotations

import logging
import os
import random
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import urllib3

from mep import __version__
from mep.base.codes import Code
from mep.sdk.errors import ComputeAPIError
from mep.wire.decoding import INVALID
from mep.wire.rest import HEADER_SEALS

log = logging.getLogger(__name__)

_RETRIED: Final = frozenset((429, 500, 502, 503, 504))
_LONGEST_PAUSE_S: Final = 30.0
_RATE_LIMIT_TRIES: Final = 20
_SERVER_ERROR_TRIES: Final = 4  # a 500 is rarely cured by waiting
_CONNECTIONS: Final = 8


class Authorizer(Protocol):
    """Who we are; globus_sdk's authorizers fit as they are."""

    def get_authorization_header(self) -> str | None: ...

    def handle_missing_authorization(self) -> bool:
        """After a 401: get fresh credentials if possible; tell whether another try makes sense."""
        ...


class RelayHttp:
    """One relay, as one user. Safe to use from many threads, and after a fork.

    Repeats a request while the relay is away or overloaded, for at most `retry_s` seconds; every request of
    ours may be repeated (submits carry an idempotency key).
    """

    def __init__(
        self, base_url: str, authorizer: Authorizer | None, *, retry_s: float = 60.0, timeout_s: float = 60.0
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.authorizer = authorizer
        self._retry_s, self._timeout_s = retry_s, timeout_s
        self._pools: dict[int, Any] = {}  # by process id: a connection is not shared with a forked child

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send `body` as JSON (or `form`) and return the decoded answer.

        ComputeAPIError has the relay's code and text; `http_status` 0 and RELAY_UNREACHABLE if it is away.
        """
        url = self.base_url + path + (f"?{urlencode(query)}" if query else "")
        sent = {"Accept": "application/json", "User-Agent": f"mep/{__version__}", HEADER_SEALS: "1"}
        sent |= headers or {}
        content: bytes | None = None
        if form is not None:
            content = urlencode(form).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        elif body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        answer = self._until_answered(method, url, content, sent)
        if answer.status >= 400:
            raise error_of(answer.status, answer.data, f"{method} {path}")
        return _decoded(answer)

    def request_object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The same where the answer must be a JSON object."""
        answer = self.request(method, path, **options)
        if not isinstance(answer, dict):
            raise not_understood(f"{method} {path}", f"an object was wanted, {type(answer).__name__} came")
        return answer

    def close(self) -> None:
        """Close this process's idle connections."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.clear()

    # ---- inside ----

    def _until_answered(self, method: str, url: str, content: bytes | None, headers: dict[str, str]) -> Any:
        deadline = time.monotonic() + self._retry_s
        step_s, limited, broken, refreshed = 0.25, 0, 0, False
        while True:
            pause_s = step_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
            step_s = min(step_s * 2, 10.0)
            try:
                answer = self._once(method, url, content, headers)
            except urllib3.exceptions.HTTPError as error:
                problem = _text_of(error)
                if time.monotonic() + pause_s > deadline:
                    raise ComputeAPIError(
                        0,
                        Code.RELAY_UNREACHABLE,
                        f"No answer from the relay at {self.base_url}: {problem}.",
                    ) from None
            else:
                if answer.status == 401 and not refreshed and self.authorizer is not None:
                    refreshed = True
                    if self.authorizer.handle_missing_authorization():
                        continue
                if answer.status not in _RETRIED:
                    return answer
                problem = f"status {answer.status}"
                pause_s = max(pause_s, _asked_pause_s(answer))
                limited += answer.status == 429
                broken += answer.status == 500
                in_time = time.monotonic() + pause_s <= deadline and broken < _SERVER_ERROR_TRIES
                if not (in_time or (answer.status == 429 and limited < _RATE_LIMIT_TRIES)):
                    return answer
            log.info("%s %s: %s; trying again in %.2f s", method, url, problem, pause_s)
            time.sleep(pause_s)

    def _once(self, method: str, url: str, content: bytes | None, headers: dict[str, str]) -> Any:
        token = self.authorizer.get_authorization_header() if self.authorizer is not None else None
        if token:
            headers = {**headers, "Authorization": token}
        return self._pool().request(
            method, url, body=content, headers=headers, retries=False, redirect=False, timeout=self._timeout_s
        )

    def _pool(self) -> Any:
        pool = self._pools.get(os.getpid())
        if pool is None:
            # setdefault is atomic; a lock might be held by a thread that a forked child does not have
            pool = self._pools.setdefault(os.getpid(), _new_pool(self.base_url))
        return pool


def segment(value: object) -> str:
    """Return an id as one path segment: nothing in it can reach another route."""
    return quote(str(value), safe="")


def not_understood(what: str, why: str) -> ComputeAPIError:
    """Return the exception for an answer that is none of a relay's."""
    text = f"The relay's answer to {what} is not understood: {why}. Is this address a relay's?"
    return ComputeAPIError(200, Code.RELAY_REFUSED, text)


def error_of(status: int, data: bytes, what: str) -> ComputeAPIError:
    """Return the exception for an error answer (protocol: errors): code and text where the body has them."""
    try:
        body = msgspec.json.decode(data)
    except INVALID:
        body = None
    if not isinstance(body, dict):
        return ComputeAPIError(status, "", f"{what}: the relay answered with status {status}.")
    texts = (body.get(key) for key in ("message", "detail", "title", "reason", "error_description", "error"))
    message = next((_as_text(text) for text in texts if text), f"{what}: status {status}.")
    code = body.get("code")
    request_id = body.get("request_id")
    return ComputeAPIError(
        status,
        code if isinstance(code, str) else "",
        message,
        request_id=request_id if isinstance(request_id, str) else None,
        details=body,
    )


def _as_text(detail: object) -> str:
    """A validation answer lists its findings; say where and what of each."""
    if not isinstance(detail, list):
        return str(detail)
    found = []
    for item in detail:
        if isinstance(item, dict):
            places = item.get("loc")
            where = ".".join(map(str, places)) if isinstance(places, list) else ""
            found.append(f"{where}: {item.get('msg', item)}")
        else:
            found.append(str(item))
    return "; ".join(found)


def _decoded(answer: Any) -> Any:
    if not answer.data:
        return None
    try:
        return msgspec.json.decode(answer.data)
    except INVALID:
        text = f"The relay's answer (status {answer.status}) is not JSON. Is this address a relay's?"
        raise ComputeAPIError(answer.status, Code.RELAY_REFUSED, text) from None


def _asked_pause_s(answer: Any) -> float:
    try:
        return min(max(float(answer.headers.get("Retry-After", 0)), 0.0), _LONGEST_PAUSE_S)
    except ValueError:
        return 0.0  # a date: our own back-off will do


def _text_of(error: Exception) -> str:
    """urllib3 wraps the system's words in its own; return the last, which are for people."""
    cause: BaseException = getattr(error, "reason", None) or error
    while isinstance(cause.__cause__, BaseException):
        cause = cause.__cause__
    return getattr(cause, "strerror", None) or str(cause).rpartition(": ")[2] or type(cause).__name__


def _new_pool(base_url: str) -> Any:
    """urllib3 does not look at the environment's proxies by itself; laptops behind one need it."""
    parts = urlsplit(base_url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        return urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS)
    return urllib3.PoolManager(maxsize=_CONNECTIONS)
