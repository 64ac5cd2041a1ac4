"""The relay's routes under fire: whatever is said to them, the answer is documented, and never a 5xx."""

from __future__ import annotations

import itertools
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.fake_endpoint import registration, submission
from support.relay import Relay
from support.restfuzz import Operation, Site, a_site, judge, refusal

DEEP = "[" * 5000 + "]" * 5000
LONG = "9" * 5000

#: JSON texts that have broken servers. Put where a value stands.
VALUES = [
    *("null", "true", "-1", "1e400", "-0", "NaN", "Infinity", LONG, f"0.{LONG}", f"-{LONG}", f"{2**63}"),
    *('""', r'"\u0000"', r'"\ud800"', r'"\udfff\ud800"', r'"\u202e"', '"²"', '"١"', f'"{LONG}"', '"2.²"'),
    *(f'"{LONG}.1"', '"../../etc/passwd"', '"%s%n"', '"{0.__class__}"', r'"a\r\nX-Injected: 1"', f'"{"é" * 600}"'),
    *("[]", "{}", "[null]", "[[]]", '[""]', '{"": null}', '{"a": {"a": {"a": 1e308}}}', '{"$ref": "#"}'),
    *('{"$ref": "http://127.0.0.1:1/x"}', '{"type": "object", "pattern": "(a+)+$"}', f'{{"deep": {DEEP}}}', DEEP),
]
TEXTS = [
    *("", " ", "\0", "\r\nX-Injected: 1", "é", "²", "\U0010ffff", "../..", "%2e%2e", "x" * 3000, "a=b&c=d"),
    *("http://[", "javascript://localhost/", "http://localhost:99999/", "//localhost", "' OR 1=1 --"),
    "http://localhost\r\nX-Injected: 1",
]


@pytest.fixture(scope="module")
def site(relay: Relay) -> Iterator[Site]:
    with a_site(relay) as made:
        yield made
    import shutil

    shutil.copy(relay.data_dir.parent / "relay.log", "/var/tmp/Z/last.log")


def bodies(site: Site, operation: Operation) -> dict[str, Any]:
    """Return a good body for a route: every field of its schema, those that matter with something real."""
    good: dict[str, Any] = dict.fromkeys((operation.schema or {}).get("properties", {}))
    if operation.path.endswith("endpoints") or operation.method == "put":
        good |= registration(endpoint_uuid=site.endpoint)  # one endpoint: a new one costs accounts and queues
        good["metadata"]["user_config_schema"] = {"type": "object"}
    elif operation.path == "/v2/submit":
        good |= {"tasks": [[site.function, site.endpoint, "1\na1\nb"]], "create_websocket_queue": False}
    elif operation.path.endswith("submit"):
        good |= submission(
            site.function, resource_specification={}, result_serializers=[], user_endpoint_config={}
        )
    elif operation.path.endswith("functions"):
        good |= {"function_name": "f", "function_code": "x", "serialized": True}
    elif operation.path.endswith("whitelist"):
        good |= {"func": [site.function]}
    elif operation.path == "/v2/batch_status":
        good |= {"task_ids": [site.task]}
    return good


def broken(good: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each part of a document: where another value can stand."""
    yield path
    if isinstance(good, dict):
        for key, value in good.items():
            yield from broken(value, (*path, key))
    elif isinstance(good, list):
        for index, value in enumerate(good):
            yield from broken(value, (*path, index))


def with_value(good: Any, path: tuple[Any, ...], text: str) -> bytes:
    """Return the JSON of `good` with `text` in place of the value at `path`."""
    mark = "@the-mark@"
    copy = json.loads(json.dumps(good))
    if not path:
        return text.encode()
    at = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = mark
    return json.dumps(copy).replace(f'"{mark}"', text).encode()


class Found:
    """Collects what is wrong, so that one run tells of all of it."""

    def __init__(self) -> None:
        self.tried, self.faults = 0, dict[str, str]()

    def attempt(self, what: object, act: Callable[..., object], *arguments: Any, **options: Any) -> None:
        self.tried += 1
        try:
            act(*arguments, **options)
        except (AssertionError, httpx.HTTPError) as error:
            self.faults.setdefault(f"{what} {str(error)[:40]}", f"{what}: {error!r:.600}")

    def check(self, at_least: int) -> None:
        if self.faults:
            pytest.fail("\n".join(self.faults.values()), pytrace=False)
        assert self.tried >= at_least


def test_no_json_value_in_any_field_breaks_a_route(site: Site) -> None:
    found = Found()
    for operation in site.operations():
        if operation.schema is None or operation.form or site.is_older_name(operation):
            continue
        good = bodies(site, operation)
        for turn, path in enumerate(broken(good)):
            for text in VALUES if len(path) == 1 else VALUES[turn % 4 :: 4]:
                content, url = with_value(good, path, text), site.filled(operation)
                found.attempt(f"{path} = {text[:40]}", site.send, operation, url, content=content)
    found.check(1000)


def test_no_text_in_any_parameter_or_form_field_breaks_a_route(site: Site) -> None:
    found = Found()
    for operation in site.operations():
        fields = list(operation.schema["properties"]) if operation.form and operation.schema else []
        good = grant(site, operation)
        for name, text in itertools.product([*operation.query, *fields], TEXTS):
            options = {"params": {name: text}} if name in operation.query else {"data": good | {name: text}}
            path = site.filled(operation)
            found.attempt(f"{name}={text[:40]!r}", site.send, operation, path, **options)
        for part in re.findall(r"\{(\w+)\}", operation.path):
            for text in TEXTS:
                path = site.filled(operation, **{part: quote(text, safe="")})
                found.attempt(f"{part}={text[:40]!r}", strange_id, site, operation, path)
    found.check(400)


def strange_id(site: Site, operation: Operation, path: str) -> None:
    """An id that is none: refused as such, or the path leads elsewhere, which nothing serves."""
    answer = site.alice.client.request(operation.method, path, json={})
    assert answer.status_code in (400, 404, 405, 422), answer.text
    assert "x-injected" not in answer.headers
    judge(answer)


def grant(site: Site, operation: Operation) -> dict[str, str]:
    """Return a form that is good as far as it goes: each field that is spoiled has its turn to matter."""
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    asked = {
        "client_id": "c",
        "redirect_uri": "http://localhost:1/x",
        "scope": "openid",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "token": site.relay.token("alice@example.org"),
    }
    if operation.path.endswith("/token"):
        return {
            "grant_type": "client_credentials",
            "client_id": site.client.client_id,
            "client_secret": site.client.client_secret,
            "scope": "openid",
        }
    return asked if operation.path.endswith("/authorize") else {"token": "x"}


@pytest.mark.parametrize(
    "changed",
    [
        {"code_challenge": "é"},
        {"code_challenge": "\0"},
        {"code_challenge": "\U0010ffff" * 10},
        {"scope": " \t"},
        {"redirect_uri": "http://["},
        {"redirect_uri": "javascript://localhost/%0aalert(1)"},
    ],
    ids=str,
)
def test_a_login_with_strange_parts_is_refused_before_there_is_a_code(site: Site, changed: dict[str, str]) -> None:
    (login,) = (o for o in site.operations() if str(o) == "POST /v2/oauth2/authorize")
    assert site.send(login, login.path, data=grant(site, login)).status_code == 303
    assert site.send(login, login.path, data=grant(site, login) | changed).status_code == 400


def test_whoever_proves_nothing_gets_nothing(site: Site) -> None:
    """Every route that wants a login: without one, with a wrong one, with one of another kind."""
    basic = b64encode(f"{site.client.client_id}:{site.client.client_secret}".encode()).decode()
    wrong = ["", "x", "Bearer", "Bearer é", f"Bearer {'x' * 8000}", "Bearer null", "Negotiate x", "Basic !"]
    wrong += [f"Basic {basic[:-4]}AAAA", f"Basic {b64encode(bytes([255, 58, 254])).decode()}"]
    found = Found()
    with httpx.Client(base_url=site.relay.url) as nobody:
        for operation in site.operations():
            for header in wrong if operation.login else ():
                found.attempt(repr(header[:20]), unproved, nobody, operation, site.filled(operation), header)
    found.check(250)


def unproved(nobody: httpx.Client, operation: Operation, path: str, header: str) -> None:
    headers = {b"authorization": header.encode("latin-1")} if header else {}
    answer = nobody.request(operation.method, path, headers=headers, content=b"[")
    assert answer.status_code == 401, answer.text
    assert "www-authenticate" in answer.headers
    judge(answer, operation)


def test_no_other_method_is_served_and_none_is_changed_by_a_header(site: Site) -> None:
    served: dict[str, set[str]] = {}
    for operation in site.operations():
        served.setdefault(operation.path, set()).add(operation.method.upper())
    override = dict.fromkeys(("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"), "DELETE")
    for path, methods in served.items():
        url = path.format(**site.real())
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"} - methods:
            answer = site.alice.client.request(method, url, headers=override)
            assert answer.status_code == 405, f"{method} {url}: {answer.text}"
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} <= methods
            refusal(answer)
        if methods == {"GET"} and "authorize" not in path:
            assert site.alice.client.get(url, headers=override).status_code == 200
    assert site.alice.ok("GET", f"/v2/endpoints/{site.endpoint}")["uuid"] == site.endpoint
