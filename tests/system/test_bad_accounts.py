"""What can be wrong with PAM and accounts: each refusal has its code, its reason is the administrator's alone.

Others are served meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.base.codes import Code
from mep.sdk.errors import TaskExecutionFailed
from support.eaters import eat_memory
from support.endpoint import Endpoint
from support.program import clean_environment
from support.program import run as run_program
from support.remote import WAIT_S, assert_refused, by_source, process_id, refusal, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB, CAROL, DAVE = (f"{name}@example.org" for name in ("alice", "bob", "carol", "dave"))


@pytest.fixture
def pam(open_dir: Path) -> Iterator[dict[str, Any]]:
    """Settings of an endpoint whose PAM account step hangs for alice, and the closing of dave's first session.

    It knows about expired accounts and passwords.
    """
    hang = open_dir / "hang"
    hang.write_text(
        '#!/bin/sh\ncase "$PAM_USER $PAM_TYPE" in\n"alice account") sleep 4711;;\n'
        f'"dave close_session") mkdir {open_dir}/once && sleep 4711;;\nesac\n'
    )
    hang.chmod(0o755)
    service = Path("/etc/pam.d/mep-bad")
    service.write_text(
        f"account required pam_unix.so\naccount required pam_exec.so quiet {hang}\n"
        f"session required pam_exec.so quiet {hang}\nauth required pam_permit.so\n"
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
        assert time.monotonic() - began < 10.0
        with pytest.raises(TaskExecutionFailed) as caught:
            hanging.result(WAIT_S)
    assert_refused(str(caught.value), Code.START_TIMEOUT)
    assert site.status()["last_refusals"][-1]["code"] == "START_TIMEOUT"
    until(lambda: not titled("sleep 4711"), "what hung is gone")
    assert "its session process does not end" not in site.log_text(), "no time to close what was never open"
    assert [uep["user"] for uep in site.user_endpoints()] == ["bob"]
    assert "Traceback" not in site.log_text()


def leave() -> None:
    """Runs in the user endpoint: let it finish and go."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)


def test_a_pam_module_that_hangs_at_the_end_makes_no_crash_of_it_and_the_next_command_is_obeyed(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam: dict[str, Any]
) -> None:
    site = endpoint("slowend", config={"pam": pam})
    sdk_env(DAVE)
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        executor.submit(leave).result(WAIT_S)
        until(lambda: titled("sleep 4711"), "the module hangs")
        second = executor.submit(process_id).result(WAIT_S)
        assert second != first
        ends = [line for line in audited(site) if line["event"] == "uep-ended"]
        assert [(line["pid"], line["code"]) for line in ends] == [(first, "")]
    assert site.status()["last_refusals"] == []
    assert "Traceback" not in site.log_text()


def audited(site: Endpoint) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.state_dir / "audit.log").read_text().splitlines()]


def test_an_expired_account_is_refused_and_only_the_administrator_learns_why(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam: dict[str, Any]
) -> None:
    """An aged password, too: nobody could be asked for a new one."""
    site = endpoint("expired", config={"pam": pam})
    sdk_env(CAROL)
    for spoil, mend, why in (
        (["usermod", "--expiredate", "1"], ["usermod", "--expiredate", ""], "expired"),
        (["chage", "--lastday", "0"], ["chage", "--lastday", "-1"], "token"),
    ):
        run_program([*spoil, "carol"], env=clean_environment())
        try:
            text = refusal(site)
        finally:
            run_program([*mend, "carol"], env=clean_environment())
        assert_refused(text, Code.PAM_REFUSED)
        assert why not in text
        assert why in admin_text(site)
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


@pytest.mark.parametrize("spawn", ["fork", "exec"])
def test_a_user_who_is_over_the_process_limit_already_is_told_so_and_mep_status_shows_it(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, spawn: str
) -> None:
    most, person = 60, "u150"
    site = endpoint("full", start=False, config={"limits": {"pids": most}, "spawn": spawn})
    path = f"PYTHONPATH: {os.environ.get('PYTHONPATH', '')}\n"
    (site.directory / "user_environment.yaml").write_text(path)
    site.start()
    sdk_env(f"{person}@example.org")
    others = [subprocess.Popen(["/bin/sleep", "600"], user=person, group=person) for _ in range(most + 3)]
    try:
        assert_refused(refusal(site), Code.LIMIT_EXCEEDED)
    finally:
        for one in others:
            one.kill()
            one.wait()
    assert [entry["code"] for entry in site.status()["last_refusals"]] == ["LIMIT_EXCEEDED"]
    assert "LIMIT_EXCEEDED" in site.mep("status", site.name).stdout
    assert "Traceback" not in site.log_text()
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)


def test_a_function_over_the_memory_limit_of_a_process_fails_alone_and_the_limit_is_named(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    """Without a memory controller: no process is killed, the kernel only gives it no more."""
    template = "engine:\n  type: {{ engine }}\n  max_workers: 1\n"
    site = endpoint("small", template=template, config={"limits": {"memory": "1 GiB"}})
    sdk_env(ALICE)
    for engine in ("ThreadPoolEngine", "ProcessPoolEngine"):
        with by_source(site.id, user_endpoint_config={"engine": engine}) as executor:
            before = executor.submit(process_id).result(WAIT_S)
            text = str(executor.submit(eat_memory, 2000).exception(WAIT_S))
            assert "MemoryError" in text
            assert "out of memory: the limit of a process is 1 GiB" in text
            assert executor.submit(eat_memory, 50).result(WAIT_S) == 50
            assert executor.submit(process_id).result(WAIT_S) == before
    assert site.status()["last_refusals"] == []
    assert "Traceback" not in site.log_text()
