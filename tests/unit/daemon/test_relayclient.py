"""The gate's HTTP half, against a small HTTP server that answers as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mep.base.errors import ServiceError
from mep.base.exits import Exit
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.daemon.relayclient import Credentials, RelayClient, RelayRefusal
from mep.wire.rest import RegistrationMetadata, RegistrationRequest

ENDPOINT = new_id()
REQUEST = RegistrationRequest(
    endpoint_name="site",
    metadata=RegistrationMetadata(
        endpoint_version="1", python_version="3", hostname="h", local_user="root", user_config_schema={}
    ),
    public=False,
    high_assurance=False,
    multi_user=True,
)
INFO = {"connection_url": "amqp://u:p@h/", "queue": "q"}
GOOD = {"endpoint_id": ENDPOINT, "command_queue_info": INFO, "heartbeat_queue_info": INFO, "unknown": 1}


class Site:
    """Answers by (method, path); notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                site.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                answers = site.answers.get((self.command, self.path), [(404, {})])
                status, answer = answers.pop(0) if len(answers) > 1 else answers[0]
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def on(self, method: str, path: str, *answers: tuple[int, Any]) -> None:
        self.answers[method, path] = list(answers)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    made.on("POST", "/v2/oauth2/token", (200, {"access_token": "one", "other_tokens": []}))
    thread = threading.Thread(target=lambda: made.server.serve_forever(poll_interval=0.01))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def client(site: Site) -> RelayClient:
    return RelayClient(site.url, site.url, Credentials("me", Secret("s3cret")))


def test_the_first_registration_posts_and_the_next_puts(site: Site, client: RelayClient) -> None:
    site.on("POST", "/v3/endpoints", (200, GOOD))
    site.on("PUT", f"/v3/endpoints/{ENDPOINT}", (200, GOOD))
    answer = client.register(REQUEST, "")
    assert answer.endpoint_id == ENDPOINT
    assert answer.mep is None
    assert "p@h" not in repr(answer)
    client.register(REQUEST, ENDPOINT)
    methods = [asked[:2] for asked in site.asked]
    token, first, second = site.asked
    assert methods == [
        ("POST", "/v2/oauth2/token"),
        ("POST", "/v3/endpoints"),
        ("PUT", f"/v3/endpoints/{ENDPOINT}"),
    ]
    assert token[2]["authorization"].startswith("Basic ")
    assert b"facd7ccc" in token[3]
    assert first[2]["authorization"] == second[2]["authorization"] == "Bearer one"
    sent = json.loads(first[3])
    assert sent["multi_user"] is True
    assert "display_name" not in sent


def test_an_expired_token_is_renewed_once(site: Site, client: RelayClient) -> None:
    site.on("POST", "/v3/endpoints", (401, {}), (200, GOOD))
    assert client.register(REQUEST, "").endpoint_id == ENDPOINT
    assert [a[1] for a in site.asked].count("/v2/oauth2/token") == 2
    site.on("POST", "/v3/endpoints", (401, {"detail": "no"}))
    with pytest.raises(RelayRefusal, match="AUTH_REQUIRED"):
        client.register(REQUEST, "")


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "INVALID_REQUEST", Exit.DATA),
        (422, "INVALID_REQUEST", Exit.DATA),
        (403, "FORBIDDEN", Exit.FAILED),
        (404, "NOT_FOUND", Exit.UNAVAILABLE),
        (409, "RELAY_REFUSED", Exit.UNAVAILABLE),
        (423, "LOCKED", Exit.UNAVAILABLE),
    ],
)
def test_refusals_are_final_and_give_the_relays_reason(
    site: Site, client: RelayClient, status: int, code: str, exit_code: Exit
) -> None:
    site.on("POST", "/v3/endpoints", (status, {"detail": "because", "code": "X"}))
    with pytest.raises(RelayRefusal, match=code) as caught:
        client.register(REQUEST, "")
    assert "because" in caught.value.user_text
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_worth_another_try(site: Site, client: RelayClient, status: int) -> None:
    site.on("POST", "/v3/endpoints", (status, b"<html>oops</html>"))
    with pytest.raises(ServiceError, match=str(status)):
        client.register(REQUEST, "")


def test_a_relay_that_is_away_is_worth_another_try() -> None:
    away = RelayClient("http://127.0.0.1:9", "http://127.0.0.1:9", Credentials(token=Secret("t0ken")))
    with pytest.raises(ServiceError, match="does not answer") as caught:
        away.register(REQUEST, "")
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", {"endpoint_id": ENDPOINT}, {**GOOD, "command_queue_info": 3}]
)
def test_an_answer_that_is_none_is_refused(site: Site, client: RelayClient, answer: Any) -> None:
    site.on("POST", "/v3/endpoints", (200, answer))
    with pytest.raises(RelayRefusal, match="RELAY_REFUSED"):
        client.register(REQUEST, "")


def test_wrong_credentials_are_named_without_the_secret(site: Site, client: RelayClient) -> None:
    site.on("POST", "/v2/oauth2/token", (401, {"error": "invalid_client"}))
    with pytest.raises(RelayRefusal, match=r"client me\): invalid_client") as caught:
        client.register(REQUEST, "")
    assert "s3cret" not in str(caught.value)


def test_the_owners_identities(site: Site, client: RelayClient) -> None:
    both = {"identity_set": [{"sub": "a"}, {"sub": "b"}, {"name": "no sub"}]}
    site.on("GET", "/v2/oauth2/userinfo", (200, both))
    assert client.owner_identities() == ["a", "b"]
    site.on("GET", "/v2/oauth2/userinfo", (200, {"sub": "x"}))
    with pytest.raises(RelayRefusal, match="names no identity"):
        client.owner_identities()
