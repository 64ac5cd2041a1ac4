"""What the fuzz of the relay's routes uses: a relay with something of every kind, its document, one judge."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from support.fake_endpoint import Http, registration
from support.relay import Relay

#: What only our own source, its libraries or its machine could have put into an answer.
_INTERNAL = re.compile(
    r'Traceback|File "/|site-packages|\.py\b|sqlalchemy|sqlite|msgspec\.|object at 0x|/var/|pamqp'
)
NOTHING = "00000000-0000-4000-8000-000000000000"
METHODS = ("get", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """One route of the OpenAPI document. `schema`: of its body; `form`: that is a form, no JSON."""

    method: str
    path: str
    document: dict[str, Any]

    @property
    def login(self) -> str:
        """Return who may call: "login" (bearer token), "client" (HTTP Basic) or "" (everybody)."""
        return next((name for one in self.document.get("security", ()) for name in one), "")

    @property
    def content(self) -> dict[str, Any]:
        return dict(self.document.get("requestBody", {}).get("content", {}))

    @property
    def form(self) -> bool:
        return "application/x-www-form-urlencoded" in self.content

    @property
    def schema(self) -> dict[str, Any] | None:
        return next((dict(content["schema"]) for content in self.content.values()), None)

    @property
    def query(self) -> list[str]:
        return [p["name"] for p in self.document.get("parameters", ()) if p["in"] == "query"]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


class Site:
    """A relay, alice with an endpoint, a function, a group and a task of hers, and a program's account."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.alice = Http(relay.url, relay.token("alice@example.org"))
        self.client = relay.client("a-program")
        self.document: dict[str, Any] = httpx.get(f"{relay.url}/openapi.json").json()
        self.function = self.alice.function()
        self.endpoint = str(self.alice.ok("POST", "/v3/endpoints", json=registration())["endpoint_id"])
        submitted = self.alice.submit(self.endpoint, self.function)
        self.group, self.task = str(submitted["task_group_id"]), str(submitted["tasks"][self.function][0])

    def operations(self) -> Iterator[Operation]:
        for path, methods in self.document["paths"].items():
            for method, document in methods.items():
                if method in METHODS:
                    yield Operation(method, path, document)

    def real(self) -> dict[str, str]:
        """Return a real id for each path parameter."""
        return {
            "endpoint_id": self.endpoint,
            "function_id": self.function,
            "task_id": self.task,
            "group_id": self.group,
        }

    def is_older_name(self, operation: Operation) -> bool:
        """Tell whether the same route has a newer path."""
        newer = operation.path.replace("/v2/", "/v3/")
        return newer != operation.path and operation.method in self.document["paths"].get(newer, ())

    def filled(self, operation: Operation, **ids: str) -> str:
        """Return the path with real ids, or with those given. What deletes gets the id of nothing."""
        known = (
            self.real()
            if operation.method != "delete"
            else dict.fromkeys(self.real(), "0" * 8 + "-0000" * 3 + "-" + "0" * 12)
        )
        return operation.path.format(**(known | ids))

    def send(self, operation: Operation, path: str, **options: Any) -> httpx.Response:
        """Call it with credentials that it takes, and judge the answer."""
        if operation.login == "client":
            options["auth"] = tuple(self.client)
        answer = self.alice.client.request(operation.method, path, **options)
        judge(answer, operation)
        return answer


@contextmanager
def a_site(relay: Relay) -> Iterator[Site]:
    """Make a site for the tests of one file; afterwards the relay has written no traceback."""
    site = Site(relay)
    yield site
    site.alice.close()
    assert "Traceback" not in relay.data_dir.with_suffix(".log").read_text()


def judge(answer: httpx.Response, operation: Operation | None = None) -> None:
    """Fail unless `answer` is one that callers may get: documented, in the stock form, without our insides."""
    said = f"{operation or ''} -> {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500, said
    assert answer.headers["x-request-id"], said
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if operation is not None:
        documented = operation.document["responses"]
        assert str(answer.status_code) in documented, f"not documented: {said}"
        kinds = documented[str(answer.status_code)].get("content", {})
        assert kind in kinds or not kinds, f"{kind} is not documented: {said}"
    if answer.status_code >= 400:
        assert not _INTERNAL.search(answer.text), said
        if kind != "text/html":
            refusal(answer)


def refusal(answer: httpx.Response) -> dict[str, Any]:
    """Return the body of a refusal, whose form is the protocol's."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body: dict[str, Any] = json.loads(answer.text)
    assert body["http_status_code"] == answer.status_code
    assert body["status"] == "Failed"
    assert re.fullmatch(r"[A-Z_]{5,40}|[a-z_]{5,40}", body["code"]), body
    assert body["detail"] == body["reason"]
    assert 10 < len(body["detail"]) < 2000, body
    if body["code"].isupper():  # not one of OAuth's, which are its own: what happened, and what to do
        assert re.search(r"[.)] [A-Z].*[.)]$", body["detail"], re.DOTALL), body
    return body
