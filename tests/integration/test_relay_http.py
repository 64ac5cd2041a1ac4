"""The relay over HTTP: what is anonymous, and that every refusal has the stock shape and a text."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mep.base.ids import new_id
from support.fake_endpoint import Http
from support.relay import Relay


@pytest.fixture
def alice(relay: Relay) -> Iterator[Http]:
    person = Http(relay.url, relay.token("alice@example.org"))
    yield person
    person.close()


@pytest.fixture
def nobody(relay: Relay) -> Iterator[Http]:
    person = Http(relay.url, "wrong")
    yield person
    person.close()


def test_version_is_anonymous_and_has_both_minimum_versions(relay: Relay) -> None:
    told = httpx.get(f"{relay.url}/v2/version?service=all").json()
    assert {"api", "min_ep_version", "min_sdk_version"} <= set(told)
    assert isinstance(httpx.get(f"{relay.url}/v2/version").json(), str)
    assert httpx.head(f"{relay.url}/v2/version").status_code == 200


def test_healthz_metrics_and_docs_are_there(relay: Relay) -> None:
    assert httpx.get(f"{relay.url}/healthz").json() == {"status": "ok"}
    assert "mep_relay_broker_connected 1.0" in httpx.get(f"{relay.url}/metrics").text
    assert httpx.get(f"{relay.url}/docs").status_code == 200
    paths = httpx.get(f"{relay.url}/openapi.json").json()["paths"]
    assert "requestBody" in paths["/v3/endpoints/{endpoint_id}/submit"]["post"]


def test_a_wrong_token_is_told_to_log_in(nobody: Http) -> None:
    body = nobody.error("GET", "/v2/endpoints")
    assert (body["http_status_code"], body["code"]) == (401, "INVALID_AUTH_TOKEN")
    assert "mep login" in body["detail"]


def test_no_token_at_all_is_told_to_log_in(relay: Relay) -> None:
    answer = httpx.get(f"{relay.url}/v2/endpoints")
    assert answer.status_code == 401
    assert answer.json()["code"] == "USER_UNAUTHENTICATED"
    assert "mep login" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/v2/nothing", None, 404, "NOT_FOUND"),
        ("DELETE", "/healthz", None, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v3/functions", b"{", 400, "REQUEST_MALFORMED"),
        ("POST", "/v3/functions", b"[]", 422, "SEMANTICALLY_INVALID"),
        ("POST", "/v3/functions", b'{"function_name": 1, "function_code": ""}', 422, "SEMANTICALLY_INVALID"),
        ("POST", "/v3/endpoints", b"\xff\xfe", 400, "REQUEST_MALFORMED"),
        ("POST", "/v3/endpoints", b"[" * 100_000, 422, "SEMANTICALLY_INVALID"),
        ("POST", "/v3/endpoints", b'{"metadata":{"a":' + b"[" * 100_000, 400, "REQUEST_MALFORMED"),
        ("GET", "/v2/tasks/x", None, 400, "INVALID_UUID"),
        ("GET", f"/v2/tasks/{new_id()}", None, 404, "TASK_NOT_FOUND"),
        ("GET", f"/v2/taskgroup/{new_id()}", None, 404, "TASK_GROUP_NOT_FOUND"),
        ("GET", f"/v2/functions/{new_id()}", None, 404, "FUNCTION_NOT_FOUND"),
        ("GET", f"/v2/endpoints/{new_id()}", None, 404, "ENDPOINT_NOT_FOUND"),
        ("POST", f"/v3/endpoints/{new_id()}/submit", b'{"tasks": 3}', 422, "SEMANTICALLY_INVALID"),
        ("POST", f"/v3/endpoints/{new_id()}/submit", b'{"tasks": {}}', 404, "ENDPOINT_NOT_FOUND"),
        ("GET", "/v2/endpoints/x", None, 400, "INVALID_UUID"),
    ],
)
def test_every_refusal_has_the_stock_shape(
    alice: Http, method: str, path: str, content: bytes | None, status: int, code: str
) -> None:
    body = alice.error(method, path, content=content)
    assert (body["http_status_code"], body["code"]) == (status, code)


def test_a_body_above_the_cap_is_refused_before_it_is_read(alice: Http) -> None:
    body = alice.error("POST", "/v3/functions", content=b" " * (65 * 1024 * 1024))
    assert (body["http_status_code"], body["code"]) == (413, "TASK_PAYLOAD_TOO_LARGE")


def test_functions_are_registered_shown_and_deleted(alice: Http) -> None:
    function_id = alice.function(description="d", meta={"python_version": "3.11.2"})
    shown = alice.ok("GET", f"/v2/functions/{function_id}")
    assert shown["function_uuid"] == function_id
    assert shown["function_code"] == "5\n01\nhi"
    assert shown["metadata"] == {"python_version": "3.11.2"}
    assert alice.ok("DELETE", f"/v2/functions/{function_id}") == {"result": 302}
    assert alice.error("GET", f"/v2/functions/{function_id}")["code"] == "FUNCTION_NOT_FOUND"


def test_plain_source_becomes_a_packed_buffer(alice: Http) -> None:
    source = "def naïve():\n    return 1\n"
    function_id = alice.function(function_name="naïve", function_code=source, serialized=False)
    buffer = f"st\nnaïve:{source}"
    assert alice.ok("GET", f"/v2/functions/{function_id}")["function_code"] == f"{len(buffer)}\n{buffer}"


def test_a_function_is_its_owner_s_unless_public(relay: Relay, alice: Http) -> None:
    bob = Http(relay.url, relay.token("bob@example.org"))
    private, public = alice.function(), alice.function(public=True)
    assert bob.error("GET", f"/v2/functions/{private}")["code"] == "FUNCTION_ACCESS_FORBIDDEN"
    assert bob.ok("GET", f"/v2/functions/{public}")
    assert bob.error("DELETE", f"/v2/functions/{public}")["code"] == "FUNCTION_ACCESS_FORBIDDEN"
    bob.close()
