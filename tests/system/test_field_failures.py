"""What went wrong for others in the field (docs/admin/failure-modes.md) and has no better place."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mep.base.codes import Code
from support import nameservice
from support.endpoint import Endpoint
from support.nameservice import silent_about
from support.remote import WAIT_S, alive, assert_refused, by_source, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

CROWD = [f"u{number:03}" for number in range(1, 9)]


def wait_for(path: str) -> int:
    """Runs in the user endpoint: until the file is there; its pid."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.02)
    return os.getpid()


def account_name() -> str:
    """Runs in the user endpoint: as whom."""
    import os
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def audited(site: Endpoint) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.state_dir / "audit.log").read_text().splitlines()]


def test_a_sigterm_to_the_whole_group_is_a_clean_stop(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    site = endpoint("grouped")
    gate = open_dir / "go"
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pid = executor.submit(process_id).result(WAIT_S)
        running = executor.submit(wait_for, str(gate))
        until(lambda: running.task_id, "it is on its way")
        assert site.program is not None
        os.killpg(os.getpgid(site.program.pid), signal.SIGTERM)
        until(lambda: "stopping" in site.log_text(), "it is told")
        gate.touch()
        assert running.result(WAIT_S) == pid, "it had its time to finish"
    assert site.program.process.wait(20) == 0
    assert alive([pid]) == []
    assert titled(": grouped") == []


def test_many_users_at_once_are_each_served_as_themselves(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("herd")
    executors, futures = [], {}
    for who in CROWD:
        sdk_env(f"{who}@example.org")
        executor = by_source(site.id)
        executors.append(executor)
        futures[who] = executor.submit(account_name)
    wait(futures.values(), timeout=60)
    assert {who: future.result(0) for who, future in futures.items()} == {who: who for who in CROWD}
    for executor in executors:
        executor.shutdown()


def test_a_lookup_of_an_account_that_hangs_costs_its_user_the_time_limit_and_nobody_else_anything(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    """As where the directory behind the name service is away: of bob the account is never found, of carol the
    groups."""
    with silent_about((nameservice.USER, "bob"), (nameservice.GROUPS_OF, "carol")):
        # the C library itself gives up after 5 s, and looks elsewhere
        site = endpoint("ldap", config={"mapping_timeout_s": 2, "denied_users": ["dave"]})
        with ExitStack() as executors:
            futures = {}
            for who in ("bob", "alice", "carol"):
                sdk_env(f"{who}@example.org")
                futures[who] = executors.enter_context(by_source(site.id)).submit(account_name)
            assert futures["alice"].result(WAIT_S) == "alice"
            for who in ("bob", "carol"):
                assert_refused(str(futures[who].exception(WAIT_S)), Code.MAPPING_TIMEOUT)
                assert who not in str(futures[who].exception())
        assert [entry["code"] for entry in site.status()["last_refusals"]] == ["MAPPING_TIMEOUT"] * 2
        assert [uep["user"] for uep in site.user_endpoints()] == ["alice"]
        assert titled("mep request: ldap") == []
        decided = [line for line in audited(site) if line["event"] in ("start-admitted", "start-refused")]
        assert [line["event"] for line in decided][:1] == ["start-admitted"], "alice waited for nobody"
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(account_name).result(WAIT_S) == "bob"
    assert "Traceback" not in site.log_text()


def test_a_copy_of_an_endpoint_in_another_folder_takes_no_task_twice(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    """As when the same folder is started on two login nodes whose file system knows no common lock."""
    site = endpoint("twin")
    other = Endpoint("twin", open_dir / "other", site.relay)
    shutil.copytree(site.directory, other.directory, ignore=shutil.ignore_patterns("control.sock", "lock"))
    other.extra_env |= site.extra_env
    other.start()
    try:
        sdk_env("alice@example.org")
        pids: list[Any] = []
        for number in range(4):
            with by_source(site.id, user_endpoint_config={"n": number}) as executor:
                pids += [future.result(WAIT_S) for future in [executor.submit(process_id) for _ in range(5)]]
        assert len(set(pids)) == 4, "each user endpoint runs once, on one of the two"
    finally:
        other.stop()
    assert "another endpoint's" in other.log_text(), "what runs for the original is not swept"
    for text in (site.log_text(), other.log_text()):
        assert "Traceback" not in text, text[-4000:]
