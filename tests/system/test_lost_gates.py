"""The gate dies, and another takes its place: user endpoints live on, and nobody forgets them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mep.base.exits import Exit
from mep.base.ids import new_id
from support.remote import WAIT_S, by_source, kill_9, process_id, titled
from support.rewriting import rewriting
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ONE_AT_A_TIME = "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\n"


def test_user_endpoints_outlive_their_gate(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("gateless")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        before = executor.submit(process_id).result(WAIT_S)
        for pid in titled("mep gate: gateless"):
            kill_9(pid)
        assert executor.submit(process_id).result(WAIT_S) == before
        until(lambda: titled("mep gate: gateless"), "the gate is started again")
        until(lambda: site.status()["broker"]["state"] == "connected", "it consumes again")
        [uep] = site.user_endpoints()
        assert uep["pid"] == before
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(process_id).result(WAIT_S) != before


def test_a_gate_that_came_back_tells_the_relay_who_dies_with_the_monitor(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    """The user endpoint is older than the gate; without its word the relay would wait for three heartbeats."""
    site = endpoint("reported")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
    [uep] = site.user_endpoints()
    [gate] = titled("mep gate: reported")
    kill_9(gate)
    until(lambda: [pid for pid in titled("mep gate: reported") if pid != gate], "there is a gate again")
    until(lambda: site.status()["broker"]["state"] == "connected", "it consumes again")
    relay_log = site.relay.data_dir.with_suffix(".log")
    os.kill(uep["pid"], signal.SIGSTOP)  # it cannot say it itself
    kill_9(site.status()["pid"])
    until(lambda: f"user endpoint {uep['uep_id']} ended: UEP_DIED" in relay_log.read_text(), "the relay knows")
    until(lambda: not titled(": reported"), "nobody is left")


def run_once(name: str, go: str) -> int:
    """Runs in the user endpoint: leave a line in the home folder, wait for `go`; how many lines there are."""
    import os
    import time

    with open(os.path.expanduser(f"~/{name}"), "a") as file:
        file.write("x")
    while not os.path.exists(go):
        time.sleep(0.02)
    return os.path.getsize(file.name)


def test_a_registration_that_is_answered_for_another_endpoint_while_tasks_run_loses_none(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    answers: list[str] = []  # of another endpoint, once there is one

    def rewrite(method: str, path: str, document: Any) -> Any:
        lies = answers and method in ("POST", "PUT") and "endpoints" in path
        return document | {"endpoint_id": answers[0]} if lies else document

    site = endpoint("foreign", template=ONE_AT_A_TIME, start=False)
    with rewriting(site.relay.url, rewrite) as url:
        config, go = site.directory / "config.yaml", open_dir / "go"
        config.write_text(config.read_text().replace(site.relay.url, url))
        site.start()
        sdk_env("alice@example.org")
        with by_source(site.id) as executor:
            running, queued = (executor.submit(run_once, new_id(), str(go)) for _ in range(2))
            until(
                lambda: [uep["tasks_pending"] for uep in site.user_endpoints()] == [2],
                "the user endpoint has them",
            )
            answers.append(new_id())
            [gate] = titled("mep gate: foreign")
            kill_9(gate)
            until(lambda: "RELAY_REFUSED" in site.log_text(), "the daemon ends")
            go.touch()
            assert site.program is not None
            assert site.program.process.wait(20) == Exit.UNAVAILABLE
            answers.clear()
            site.start()
            assert [running.result(WAIT_S), queued.result(WAIT_S)] == [1, 1], "each has run once"
        site.stop()
    assert "Traceback" not in site.log_text()
