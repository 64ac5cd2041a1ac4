"""The few plain HTTP requests that rigs and tests make themselves."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

URL = "http://localhost:5000"
COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"


@dataclass(frozen=True)
class Answer:
    """Status and body (decoded where it is JSON)."""

    status: int
    body: Any


def request(
    method: str,
    path: str,
    *,
    token: str = "",
    body: Any = None,
    form: dict[str, str] | None = None,
    basic: tuple[str, str] | None = None,
) -> Answer:
    """Make one request to the relay; no answer at all raises OSError."""
    data, headers = None, {}
    if form is not None:
        data = urllib.parse.urlencode(form).encode()
    elif body is not None:
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if basic is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
    asked = urllib.request.Request(URL + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return Answer(answer.status, _decoded(answer.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _decoded(error.read()))


def get_or_none(path: str) -> Answer | None:
    """Return the answer if there is one and it is 200."""
    try:
        answer = request("GET", path)
    except OSError:
        return None
    return answer if answer.status == 200 else None


def client_token(client_id: str, client_secret: str, scope: str = COMPUTE_SCOPE) -> Any:
    """Return the token response for client credentials."""
    form = {"grant_type": "client_credentials", "scope": scope}
    return request("POST", "/v2/oauth2/token", form=form, basic=(client_id, client_secret)).body


def wait_until(condition: Callable[[], bool], within_s: float, why: Callable[[], str]) -> None:
    """Return when `condition()`; AssertionError(why()) after `within_s`. For peers that announce nothing."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(why())
        time.sleep(0.05)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
