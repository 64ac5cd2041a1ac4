"""What can be wrong with PAM and accounts: each refusal has its code, its reason is the administrator's alone.

Others are served meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.sdk.errors import TaskExecutionFailed
from support.endpoint import Endpoint
from support.program import clean_environment
from support.program import run as run_program
from support.remote import WAIT_S, by_source, process_id, refusal, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@example.org"


@pytest.fixture
def pam(open_dir: Path) -> Iterator[dict[str, Any]]:
    """Settings of an endpoint whose PAM account step hangs for alice, and knows about expired accounts."""
    hang = open_dir / "hang"
    hang.write_text('#!/bin/sh\nif [ "$PAM_USER" = alice ]; then sleep 4711; fi\n')
    hang.chmod(0o755)
    service = Path("/etc/pam.d/mep-bad")
    service.write_text(
        f"account required pam_unix.so\naccount required pam_exec.so quiet {hang}\n"
        "session required pam_permit.so\nauth required pam_permit.so\n"
    )
    yield {"enable": True, "service_name": service.name}
    service.unlink()


def admin_text(site: Endpoint) -> str:
    return str(site.status()["last_refusals"][-1]["text"])


def test_a_pam_module_that_hangs_costs_its_user_the_time_limit_and_nobody_else_anything(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam: dict[str, Any]
) -> None:
    site = endpoint("slowpam", config={"pam": pam, "start_timeout_s": 3})
    sdk_env(ALICE)
    with by_source(site.id) as slow:
        hanging = slow.submit(process_id)
        until(lambda: titled("sleep 4711"), "the module hangs")
        sdk_env(BOB)
        began = time.monotonic()
        with by_source(site.id) as quick:
            quick.submit(process_id).result(WAIT_S)
        assert time.monotonic() - began < 3.0
        with pytest.raises(TaskExecutionFailed) as caught:
            hanging.result(WAIT_S)
    assert str(caught.value).startswith("START_TIMEOUT")
    assert site.status()["last_refusals"][-1]["code"] == "START_TIMEOUT"
    until(lambda: not titled("sleep 4711"), "what hung is gone")
    assert [uep["user"] for uep in site.user_endpoints()] == ["bob"]
    assert "Traceback" not in site.log_text()


def test_an_expired_account_is_refused_and_only_the_administrator_learns_why(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam: dict[str, Any]
) -> None:
    site = endpoint("expired", config={"pam": pam})
    sdk_env(CAROL)
    run_program(["usermod", "--expiredate", "1", "carol"], env=clean_environment())
    try:
        text = refusal(site)
    finally:
        run_program(["usermod", "--expiredate", "", "carol"], env=clean_environment())
    assert text.startswith("PAM_REFUSED")
    assert "expired" not in text
    assert "expired" in admin_text(site)
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
    assert "Traceback" not in site.log_text()


def hold(seconds: float) -> None:
    """Runs in the user endpoint: keep a worker busy."""
    import time

    time.sleep(seconds)


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine"])
def test_a_user_over_the_process_limit_loses_no_task_and_disturbs_nobody(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, engine: str
) -> None:
    """Each task ends: in a result, or in an error that names the limit."""
    template = f"engine:\n  type: {engine}\n  max_workers: 30\n"
    site = endpoint("narrow", template=template, config={"limits": {"pids": 8}})
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        futures = [executor.submit(hold, 0.2) for _ in range(30)]
        errors = [str(error) for error in (future.exception(WAIT_S) for future in futures) if error is not None]
    assert all(text.startswith(("LIMIT_EXCEEDED", "ENGINE_FAILED", "WORKER_LOST")) for text in errors), errors
    assert "Traceback" not in site.log_text()
    sdk_env(BOB)
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
