"""Lines about tasks: under the monitor's facts, apart for each account, kept while the disk is full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mep.base.ids import new_id
from mep.daemon.audit import AuditLog
from mep.daemon.tasklog import MAX_WAITING, TaskLog
from mep.daemon.ueps import NOTES_PER_S
from mep.wire.taskevents import MAX_EVENT_CHARS, MAX_EVENTS, Place, TaskEvent, TaskEvents


def who(uid: int) -> dict[str, Any]:
    return {"identity": f"i{uid}", "uid": uid, "pid": 7, "uep": "u", "request_id": "r"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_account_has_a_file_and_each_line_the_monitors_facts(tmp_path: Path) -> None:
    log = TaskLog(AuditLog(tmp_path / "audit.log"))
    task = new_id()
    events = [TaskEvent("received", 5.0, task, "f"), TaskEvent("ended", 6.0, task, "f", "TASK_LOST")]
    assert log.write(who(1001), TaskEvents(events=events))
    assert log.write(who(1002), TaskEvents(events=[TaskEvent("ended", 7.0, task, "f")], dropped=3))
    received, ended = lines(tmp_path / "audit.log.tasks.1001")
    assert received.items() >= {**who(1001), "event": "task-received", "task": task, "function": "f"}.items()
    assert "outcome" not in received
    assert (ended["event"], ended["outcome"], ended["at"]) == ("task-ended", "TASK_LOST", 6.0)
    dropped, success = lines(tmp_path / "audit.log.tasks.1002")
    assert (dropped["event"], dropped["count"], success["outcome"]) == ("task-events-dropped", 3, "success")


def test_where_a_task_runs_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    log = TaskLog(AuditLog(tmp_path / "audit.log"))
    places = [Place(11), Place(12, 'node"1\\', "0", "4711"), Place(host="node2")]
    events = [TaskEvent("running", 5.0, "t", "f", "", place) for place in places]
    assert log.write(who(1001), TaskEvents(events=[*events, TaskEvent("ended", 6.0, "t", "f", "", places[1])]))
    here, there, lost, ended = lines(tmp_path / "audit.log.tasks.1001")
    assert here["worker_pid"] == 11
    assert not {"worker_host", "block", "job"} & set(here)
    told = {"worker_host": 'node"1\\', "worker_pid": 12, "block": "0", "job": "4711"}
    assert there.items() >= told.items()
    assert lost["worker_host"] == "node2"
    assert ended.items() >= {**told, "outcome": "success"}.items()


def test_all_steps_of_two_thousand_tasks_a_second_are_heard() -> None:
    """Received, started, running, ended: so many messages the monitor must take from one user endpoint."""
    assert NOTES_PER_S * MAX_EVENTS >= 4 * 2000
    ids_of_an_event = 2 * 36
    assert MAX_EVENT_CHARS // ids_of_an_event >= MAX_EVENTS


def test_what_cannot_be_written_is_kept_and_written_later(tmp_path: Path) -> None:
    troubles: list[bool] = []
    log = TaskLog(AuditLog(tmp_path / "audit.log"), on_trouble=lambda: troubles.append(True))
    path = tmp_path / "audit.log.tasks.1001"
    path.symlink_to("/dev/null")  # not followed: the open fails, for root too
    for number in range(3):
        assert not log.write(who(1001), TaskEvents(events=[TaskEvent("started", float(number), "t")]))
    assert troubles == [True]
    assert str(path) in log.check()
    path.unlink()
    assert log.check() == ""
    assert [line["at"] for line in lines(path)] == [0.0, 1.0, 2.0]
    assert log.write(who(1001), TaskEvents(events=[TaskEvent("started", 9.0, "t")]))


def test_what_is_given_up_while_nothing_can_be_written_is_counted(tmp_path: Path) -> None:
    log = TaskLog(AuditLog(tmp_path / "audit.log"))
    path = tmp_path / "audit.log.tasks.1001"
    path.symlink_to("/dev/null")  # not followed: the open fails, for root too
    for number in range(0, MAX_WAITING + 50, 50):
        log.write(who(1001), TaskEvents(events=[TaskEvent("started", float(number + i), "t") for i in range(50)]))
    path.unlink()
    assert log.check() == ""
    dropped, first, *_ = found = lines(path)
    assert dropped.items() >= {**who(1001), "event": "task-events-dropped", "count": 50}.items()
    assert (first["at"], len(found)) == (50.0, 1 + MAX_WAITING)


def test_lines_that_are_lost_at_the_end_of_the_daemon_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = TaskLog(AuditLog(tmp_path / "audit.log"))
    (tmp_path / "audit.log.tasks.1001").symlink_to("/dev/null")
    log.write(who(1001), TaskEvents(events=[TaskEvent("started", 1.0, "t"), TaskEvent("ended", 2.0, "t")]))
    log.stop()
    assert "2 lines about tasks are lost" in caplog.text
