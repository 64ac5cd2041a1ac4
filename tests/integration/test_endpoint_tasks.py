"""A user endpoint takes tasks from a real broker and answers each of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from mep.base.ids import new_id
from mep.wire import envelope
from support.uep import Running, Site, task_buffer, user_endpoint

TEMPLATE = "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n"


def test_a_task_returns_its_value(place: Site, running: Running) -> None:
    assert place.run(lambda a, b: a + b, 2, 3) == 5


def test_a_result_tells_versions_and_times(place: Site, running: Running) -> None:
    result = place.result(place.submit(lambda: None))
    assert result.details is not None
    assert result.details["endpoint_id"] == place.uep_id
    assert result.details["python_version"]
    assert result.details["dill_version"]
    assert result.task_statuses is not None
    assert [step.state for step in result.task_statuses] == ["execution-start", "execution-end"]


def test_an_exception_comes_back_with_the_remote_traceback(place: Site, running: Running) -> None:
    def inner() -> None:
        raise ValueError("no such thing")

    def outer() -> None:
        inner()

    result = place.result(place.submit(outer))
    assert result.error_details is not None
    assert result.error_details.code == "RemoteExecutionError"
    assert "ValueError: no such thing" in result.data
    assert "in outer" in result.data
    assert "in inner" in result.data
    assert "engines/worker.py" not in result.data


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({envelope.HEADER_FUNCTION: None}, "function_uuid"),
        ({envelope.HEADER_RESOURCES: "{broken"}, "resource_specification"),
        ({envelope.HEADER_RESOURCES: '{"num_nodes": 2}'}, "num_nodes"),
        ({envelope.HEADER_SERIALIZERS: "JSONData"}, "result_serializers"),
    ],
)
def test_bad_headers_end_in_a_failed_result(
    place: Site, running: Running, headers: dict[str, Any], says: str
) -> None:
    result = place.result(place.submit_buffer(task_buffer(int), headers=headers))
    assert result.error_details is not None
    assert says in result.data


def test_what_names_no_task_is_thrown_away_and_the_next_task_runs(place: Site, running: Running) -> None:
    place.publish(b"\x01garbage", {})
    place.publish(b"", {envelope.HEADER_TASK: "not-a-uuid"})
    assert place.run(int) == 0
    assert place.queued() == 0


def test_garbage_for_a_named_task_fails_that_task(place: Site, running: Running) -> None:
    task_id = new_id()
    place.publish(b"\x01{}", {envelope.HEADER_TASK: task_id, envelope.HEADER_FUNCTION: new_id()})
    result = place.result(task_id)
    assert result.error_details is not None
    assert "TASK_MALFORMED" in result.data


def test_a_function_that_is_not_allowed_is_refused(place: Site, tmp_path: Path) -> None:
    allowed, other = new_id(), new_id()
    with user_endpoint(place, tmp_path, TEMPLATE, allowed_functions=(allowed,)):
        refused = place.result(place.submit(int, headers={envelope.HEADER_FUNCTION: other}))
        assert refused.error_details is not None
        assert refused.error_details.code == "FUNCTION_NOT_ALLOWED"
        assert refused.details == {"fid": other, "eid": place.uep_id}
        assert place.result(place.submit(int, headers={envelope.HEADER_FUNCTION: allowed})).error_details is None


def test_a_result_above_the_limit_names_both_sizes(place: Site, running: Running) -> None:
    result = place.result(place.submit(lambda: "x" * (8 * 1024 * 1024)))
    assert result.error_details is not None
    assert result.error_details.code == "MaxResultSizeExceeded"
    assert "10485760" in result.data


def test_a_result_of_seven_mebibytes_passes(place: Site, running: Running) -> None:
    assert len(place.run(lambda: "x" * (7 * 1024 * 1024))) == 7 * 1024 * 1024


def test_result_serializers_are_honoured(place: Site, running: Running) -> None:
    path = "globus_compute_sdk.serialize.concretes.JSONData"
    result = place.result(place.submit(lambda: {"a": 1}, headers={envelope.HEADER_SERIALIZERS: [path]}))
    assert result.data == '11\n{"a": 1}'


def test_a_task_delivered_twice_runs_once(place: Site, running: Running, tmp_path: Path) -> None:
    seen = tmp_path / "runs"

    def note() -> None:
        with open(seen, "a") as out:
            out.write("x")

    task_id = place.submit(note)
    place.submit_buffer(task_buffer(note), task_id=task_id)
    place.result(task_id)
    place.submit_buffer(task_buffer(note), task_id=task_id)
    assert place.run(int) == 0
    assert seen.read_text() == "x"


def test_the_first_report_says_who_and_what(place: Site, running: Running) -> None:
    place.pump(lambda: place.reports, "a report")
    state = place.reports[0].global_state
    assert place.reports[0].endpoint_id == place.uep_id
    assert state["active"] is True
    assert state["posix_pid"] == running.pid
    assert state["posix_uid"] == os.getuid()
    assert state["engine_type"] == "ThreadPoolEngine"
    assert state["total_workers"] == 2
    assert state["heartbeat_period"] == 30.0


def test_the_last_report_says_so_after_a_clean_stop(place: Site, running: Running) -> None:
    running.kill(15)
    assert running.wait() == 0
    place.pump(lambda: any(not r.global_state["active"] for r in place.reports), "the last report")


def test_a_thousand_tasks(place: Site, running: Running) -> None:
    place.run(int)
    buffer = task_buffer(int)
    began = time.monotonic()
    ids = [place.submit_buffer(buffer) for _ in range(1000)]
    place.pump(lambda: len(place.results) > 1000, "1000 results")
    print(f"1000 tasks in threads: {1000 / (time.monotonic() - began):.0f}/s")
    assert set(ids) <= set(place.results)
    took = []
    for _ in range(100):
        began = time.monotonic()
        place.run(int)
        took.append(time.monotonic() - began)
    print(f"one after the other: median {sorted(took)[50] * 1e3:.1f} ms")
