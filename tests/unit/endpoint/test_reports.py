"""What a status report says, and what it must not say."""

from __future__ import annotations

from typing import Any

import pytest

from mep.endpoint.reports import report, without_secrets
from mep.wire import envelope
from mep.wire.limits import MAX_REPORT_BYTES


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("password: hunter2", "password: ***"),
        ('api_key: "hunter2"', "api_key: ***"),
        ("worker_init: export MY_TOKEN=hunter2; module load x", "worker_init: export MY_TOKEN=*** module load x"),
        ("image: https://bob:hunter2@registry.example/x", "image: https://bob:***@registry.example/x"),
        ("{'secret_name': 'hunter2'}", "{'secret_name': ***}"),
        ("account: abc\nqueue: debug", "account: abc\nqueue: debug"),
    ],
)
def test_secrets_in_the_configuration_are_not_told(text: str, wanted: str) -> None:
    assert without_secrets(text) == wanted


def decoded(body: bytes) -> dict[str, Any]:
    message = envelope.decode(body)
    assert isinstance(message, envelope.StatusReport)
    return message.global_state


def test_a_report_has_process_and_engine_facts() -> None:
    state = decoded(report("u", {"posix_pid": 1}, {"engine_type": "E"}, active=True, period_s=5.0, trouble="t"))
    assert state == {"posix_pid": 1, "engine_type": "E", "active": True, "heartbeat_period": 5.0, "trouble": "t"}


def test_a_report_that_would_be_too_large_leaves_the_configuration_out() -> None:
    facts = {"config_raw": "x" * MAX_REPORT_BYTES, "posix_pid": 1}
    body = report("u", facts, {}, active=True, period_s=5.0)
    assert len(body) <= MAX_REPORT_BYTES
    assert "config_raw" not in decoded(body)
    assert decoded(body)["posix_pid"] == 1
