"""The most dangerous moments, with the real daemon, relay and broker: each task ends once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest

from mep import Executor
from support.endpoint import MAPPING, Endpoint
from support.relay import Relay
from support.remote import WAIT_S, by_source, kill_9, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv, make_open_dir
from support.wait import until

pytestmark = pytest.mark.timeout(180)

QUICK = """engine:
  type: ThreadPoolEngine
  max_workers: 4
heartbeat_period: 5
idle_heartbeats_soft: {{ idle | default(0) }}
"""


def nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


@pytest.fixture
def site(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> Endpoint:
    one = endpoint("raced", template=QUICK)
    sdk_env("alice@example.org")
    return one


def executor_of(site: Endpoint, *, idle: int = 0) -> Executor:
    return by_source(site.id, user_endpoint_config={"idle": idle} if idle else {})


def outcome(future: Future[Any]) -> str:
    """What came of it: "done", or the error's first word, which is its code."""
    error = future.exception(WAIT_S * 2)
    return "done" if error is None else str(error)


def test_tasks_that_arrive_while_an_idle_one_leaves_are_all_run(site: Endpoint) -> None:
    with executor_of(site, idle=1) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        pids = {first}
        for pause_s in (7.5, 10.5):  # it leaves 5 to 10 s after its last task
            time.sleep(pause_s)
            pids.add(executor.submit(process_id).result(WAIT_S))
        assert len(pids) > 1, "it never left"


def test_a_task_for_one_that_is_told_to_stop_is_run_by_the_next(site: Endpoint) -> None:
    with executor_of(site) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        running = executor.submit(nap, 1.0)
        until(lambda: site.status()["user_endpoints"][0]["tasks_pending"] == 1, "it runs")
        site.mep("stop-user", "raced", "alice")
        later = [executor.submit(process_id) for _ in range(3)]
        assert running.result(WAIT_S) == 1.0
        assert {outcome(f) for f in later} == {"done"}
        assert first not in {f.result() for f in later}


def test_a_stop_while_one_starts_loses_no_task(site: Endpoint) -> None:
    with executor_of(site) as executor:
        waiting = executor.submit(process_id)
        until(lambda: site.status()["user_endpoints"], "it starts")
        site.stop()
        site.start()
        assert outcome(waiting) == "done"


def test_a_monitor_killed_while_tasks_run_answers_for_each_after_its_restart(site: Endpoint) -> None:
    with executor_of(site) as executor:
        executor.submit(process_id).result(WAIT_S)
        running = [executor.submit(nap, 60.0) for _ in range(4)]
        waiting = [executor.submit(process_id) for _ in range(3)]
        until(lambda: site.status()["user_endpoints"][0]["tasks_pending"] == 7, "it has them")
        [monitor] = titled("mep monitor: raced")
        kill_9(monitor)
        until(lambda: not titled(": raced"), "all are gone")
        site.stop()  # only its name is left
        site.start()
        assert all("TASK_LOST" in outcome(future) for future in running)
        assert {outcome(future) for future in waiting} == {"done"}


def test_a_gate_killed_before_the_decision_reached_it_changes_nothing(site: Endpoint) -> None:
    with executor_of(site) as executor:
        [monitor] = titled("mep monitor: raced")
        [gate] = titled("mep gate: raced")
        os.kill(monitor, signal.SIGSTOP)
        try:
            waiting = executor.submit(process_id)
            time.sleep(0.5)  # the command is in the monitor's socket, and the monitor sleeps
            kill_9(gate)
        finally:
            os.kill(monitor, signal.SIGCONT)
        assert outcome(waiting) == "done"
        assert len(titled("mep user-endpoint raced")) == 1


def test_a_relay_killed_while_one_starts_hands_over_to_the_next(site: Endpoint) -> None:
    with executor_of(site) as executor:
        waiting = executor.submit(process_id)
        until(lambda: site.status()["user_endpoints"], "it starts")
        site.relay.kill()
        site.relay.start()
        assert outcome(waiting) == "done"
        assert outcome(executor.submit(process_id)) == "done"


def test_the_user_endpoint_killed_between_two_tasks_is_followed_by_another(site: Endpoint) -> None:
    with executor_of(site) as executor:
        pid = executor.submit(process_id).result(WAIT_S)
        kill_9(pid)
        later = [executor.submit(process_id) for _ in range(5)]
        assert {outcome(future) for future in later} == {"done"}
        assert pid not in {future.result() for future in later}


def replaced(path: Path, text: str) -> None:
    """Write it as an editor does: nobody reads half of it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    shutil.copymode(path, new)
    os.replace(new, path)


def test_files_that_change_and_break_while_user_endpoints_start_and_leave_lose_no_task(site: Endpoint) -> None:
    """Each task is done, or refused by what one of the files said; in the end all are done."""
    template = site.directory / "user_config_template.yaml.j2"
    mapping = site.directory / "identity_mapping.json"
    nobody = json.dumps([{**MAPPING[0], "mappings": [{"source": "{username}", "match": "x", "output": "x"}]}])
    good = mapping.read_text()
    changes = [
        (template, QUICK + "debug: {{ nowhere }}\n"),  # fails who starts
        (template, "engine: {{"),  # is no template: the last good one holds
        (template, QUICK + "debug: true\n"),
        (mapping, nobody),
        (mapping, "["),
        (mapping, good),
        (template, QUICK),
    ]
    asked: list[Future[Any]] = []
    with contextlib.ExitStack() as stack:
        executors = [stack.enter_context(executor_of(site, idle=1 + n)) for n in range(len(changes))]
        for executor, (path, text) in zip(executors, changes, strict=True):
            one = executor.submit(process_id)  # its user endpoint starts while the file changes
            asked.append(one)
            until(lambda: one.task_id, "the relay has it")  # noqa: B023 - done at once
            replaced(path, text)
            asked += [each.submit(process_id) for each in executors[:2]]
        outcomes = {outcome(future).split(":")[0] for future in asked}
        assert outcomes <= {"done", "TEMPLATE_UNDEFINED", "IDENTITY_NOT_MAPPED"}
        assert "done" in outcomes
        until(lambda: not site.status()["broken_files"], "all files are good")
        assert {outcome(executor.submit(process_id)) for executor in executors} == {"done"}
    assert "Traceback" not in site.log_text()


@pytest.fixture
def whole_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint, and a relay with a broker of its own."""
    folder = make_open_dir()
    relay = Relay(folder / "relay").start()
    one = Endpoint("rebroken", folder / "etc", relay)
    try:
        one.config_dir.mkdir()
        client = relay.client(one.name)
        one.extra_env |= {"MEP_CLIENT_ID": client.client_id, "MEP_CLIENT_SECRET": client.client_secret}
        one.configure(template=QUICK).start()
        for name, value in relay.sdk_env("alice@example.org").items():
            monkeypatch.setenv(name, value)
        yield one
    finally:
        one.stop()
        relay.stop()
        shutil.rmtree(folder, ignore_errors=True)


def restart_broker(relay: Relay) -> None:
    """kill -9; the relay starts it again."""
    assert relay.program is not None
    (node,) = (child for child in psutil.Process(relay.program.pid).children() if "beam" in child.name())
    node.kill()


def test_a_broker_that_restarts_while_user_endpoints_start_and_leave_loses_no_task(whole_site: Endpoint) -> None:
    site = whole_site
    with executor_of(site) as executor:
        waiting = [executor.submit(process_id) for _ in range(3)]
        until(lambda: site.status()["user_endpoints"], "it starts")
        restart_broker(site.relay)
        waiting.append(executor.submit(process_id))  # while nobody is there who could take it
        assert {outcome(future) for future in waiting} == {"done"}

        first = executor.submit(process_id).result(WAIT_S)
        running = executor.submit(nap, 2.0)
        until(lambda: site.status()["user_endpoints"][0]["tasks_pending"] == 1, "it runs")
        site.mep("stop-user", site.name, "alice")
        later = [executor.submit(process_id) for _ in range(3)]
        restart_broker(site.relay)  # while one leaves, and the next is asked for
        later.append(executor.submit(process_id))
        assert {outcome(future) for future in [running, *later]} == {"done"}
        assert first not in {future.result() for future in later}
    assert "Traceback" not in site.log_text()
