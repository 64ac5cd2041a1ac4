"""The most dangerous moments, with the real daemon, relay and broker: each task ends once."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from typing import Any

import pytest

from mep import Executor
from support.endpoint import Endpoint
from support.remote import WAIT_S, by_source, kill_9, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv
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
