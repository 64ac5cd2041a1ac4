"""What no HTTP library sends: the relay reads no more of it than it must, answers in its own form, and goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from mep.wire.limits import MAX_SUBMIT_BYTES
from support.relay import Relay
from support.restfuzz import Site, a_site

WAIT_S = 10.0


@pytest.fixture(scope="module")
def site(relay: Relay) -> Iterator[Site]:
    with a_site(relay) as made:
        yield made


class Wire:
    """A connection to the relay, byte by byte."""

    def __init__(self, site: Site) -> None:
        address = urlsplit(site.relay.url)
        self.sock = socket.create_connection((address.hostname, address.port), timeout=WAIT_S)
        self.head = f"Host: x\r\nAuthorization: Bearer {site.relay.token('alice@example.org')}\r\n"

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, request: str, *headers: str, body: bytes = b"") -> None:
        lines = "".join(f"{header}\r\n" for header in headers)
        self.sock.sendall(
            f"{request} HTTP/1.1\r\n{self.head}{lines}\r\n".encode("utf-8", "surrogateescape") + body
        )

    def answer(self) -> tuple[int, str, str]:
        """Return status, head and body of the next answer."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(65536)
            assert part, f"the relay said {data!r} and no more"
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode("latin-1").lower()
        length = int(text.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        while len(body) < length:
            body += self.sock.recv(65536)
        return int(text.split()[1]), text, body.decode()


def still_serves(site: Site) -> None:
    assert site.alice.ok("GET", f"/v2/endpoints/{site.endpoint}")["uuid"] == site.endpoint


@pytest.mark.parametrize("length", [MAX_SUBMIT_BYTES + 1, 10**15, 2**63 - 1])
def test_a_body_that_is_announced_too_large_is_refused_unread(site: Site, length: int) -> None:
    with Wire(site) as wire:
        wire.ask("POST /v3/functions", f"Content-Length: {length}")  # and not a byte of it
        status, head, body = wire.answer()
    assert status == 413
    assert "connection: close" in head
    assert "TASK_PAYLOAD_TOO_LARGE" in body


def test_a_body_of_unknown_length_is_read_up_to_the_limit_only(site: Site) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    sent = 0
    with Wire(site) as wire:
        wire.ask("POST /v3/functions", "Transfer-Encoding: chunked")
        try:
            while sent < 4 * MAX_SUBMIT_BYTES:
                wire.sock.sendall(chunk)
                sent += 0x100000
        except OSError:
            pass  # it has hung up on us: what it said is gone with the connection, if we were quick enough
        else:
            pytest.fail("all of it was taken")
    assert sent < 2 * MAX_SUBMIT_BYTES + 64 * 1024 * 1024
    still_serves(site)


@pytest.mark.parametrize(
    "body",
    [
        b'{"function_name":"f","function_code":"x","function_name":"g"}',
        b'{"function_name":"f","function_name":3,"function_code":"x"}',
        b"\xef\xbb\xbf{}",
        '{"function_name":"f","function_code":"x"}'.encode("utf-16"),
        '{"function_name":"é","function_code":"x"}'.encode("latin-1"),
        b"[" * 1_000_000,
        b'{"meta":' * 100_000,
        b'{"function_name":"f","function_code":"x","meta":{"a":' + b"9" * 1_000_000 + b"}}",
        b'{"function_name":"f","function_code":"x","meta":{"a":1e-999999999}}',
        b'{"function_name":"\x00","function_code":"x"}',
        b'{"function_name":"\\ud800","function_code":"x"}',
    ],
    ids=[
        "twice",
        "twice-wrong",
        "mark",
        "utf-16",
        "latin-1",
        "deep",
        "deep-objects",
        "digits",
        "small",
        "nul",
        "half",
    ],
)
def test_a_body_that_is_no_honest_json_is_taken_or_refused(site: Site, body: bytes) -> None:
    with Wire(site) as wire:
        wire.ask("POST /v3/functions", f"Content-Length: {len(body)}", "Content-Type: text/plain", body=body)
        status, _, text = wire.answer()
    assert status in (200, 400, 422), text
    assert status == 200 or "http_status_code" in text


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/v2/endpoints/../../../../etc/passwd", (400, 404)),
        ("/v2/tasks/..%2f..%2f..%2fetc%2fpasswd", (400, 404)),
        ("/v2/tasks/%00", (400, 404)),
        ("/v2/tasks/%0d%0aX-Injected:%201", (400, 404)),
        ("/v2/tasks/%ff%fe%ed%a0%80", (400, 404)),
        ("//evil.example/v2/version", (404,)),
        ("http://evil.example/v2/nothing", (400, 404)),
        ("/v2/version?service=%ff%00%0d%0a", (200,)),
        ("/v2/endpoints?role=" + "x" * 30_000, (200, 400, 414, 431)),
        ("/v2/nothing%0d%0aX-Injected:%201", (404,)),
        ("*", (400, 404)),
    ],
)
def test_a_strange_target_leads_nowhere(site: Site, target: str, allowed: tuple[int, ...]) -> None:
    with Wire(site) as wire:
        wire.ask(f"GET {target}")
        status, head, body = wire.answer()
    assert status in allowed, body
    assert "x-injected" not in head
    assert "root:" not in body
    still_serves(site)


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /v2/version HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v2/submit HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/submit HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST /v2/submit HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/submit HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"GET /v2/version HTTP/1.1\r\nA: " + b"x" * 300_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["version", "tls", "lengths", "both", "chunk", "negative", "huge", "header", "h2"],
)
def test_bytes_that_are_no_http_end_one_connection_only(site: Site, request_line: bytes) -> None:
    with Wire(site) as wire:
        wire.sock.sendall(request_line)
        wire.sock.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while part := wire.sock.recv(65536):
                said += part
        except ConnectionResetError:
            pass
    assert b" 500 " not in said
    assert b"Traceback" not in said
    still_serves(site)
