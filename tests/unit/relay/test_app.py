"""A fault of ours is a 500 that tells nothing but where to look."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from mep.relay.app import make_app
from mep.relay.settings import Settings


async def test_a_crash_tells_its_request_id_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(Settings(data_dir=tmp_path))  # never started: there is no relay behind its routes
    with caplog.at_level(logging.ERROR):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answer = await client.get("/v2/authenticate")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (500, "INTERNAL_ERROR")
    assert answer.headers["x-request-id"] in body["detail"]
    assert "AttributeError" not in answer.text
    (record,) = caplog.records
    assert answer.headers["x-request-id"] in record.getMessage()
    assert record.exc_info is not None


async def test_an_announced_length_that_is_no_number_is_too_large(tmp_path: Path) -> None:
    app = make_app(Settings(data_dir=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        for length in ("9" * 5000, "-1", "x", "²", ""):
            headers = {b"content-length": length.encode(), b"authorization": b"Bearer x"}
            answer = await client.post("/v2/oauth2/token/revoke", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "TASK_PAYLOAD_TOO_LARGE")
