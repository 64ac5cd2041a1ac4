"""The chaos's accounts notice every way in which a promise can be broken."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import chaos_account
from chaos_account import Account
from chaos_client import Job
from chaos_faults import KILLS, schedule


def books(
    folder: Path, outcomes: list[dict[str, Any]], ran: str, *, retry: bool = False, open_task: bool = False
) -> Account:
    """Settle the accounts of one task of one client."""
    job = Job(
        name="a", relay_url="", token="", endpoint_id="", amqp_port=0, options={"retry": retry}, tasks=1,
        span_s=1.0, burst=1, seed="", ran=str(folder / "ran"), outcomes=str(folder / "outcomes"),
    )  # fmt: skip
    (folder / "ran").write_text("".join(f"{word} a.0 1 0.0\n" for word in ran.split()))
    lines = [json.dumps({"marker": "a.0", "kind": "quick", "task_id": "t"} | outcome) for outcome in outcomes]
    (folder / "outcomes").write_text("".join(f"{line}\n" for line in lines))
    with sqlite3.connect(folder / "relay.db") as database:
        database.execute("CREATE TABLE tasks (id TEXT, uep_id TEXT, created REAL, done REAL)")
        database.execute("CREATE TABLE ueps (id TEXT, state TEXT)")
        database.execute("INSERT INTO tasks VALUES ('t', 'u', 1.0, ?)", (None if open_task else 2.0,))
    database.close()
    return chaos_account.settle([job], folder)


RIGHT = {"value": hashlib.sha256(b"a.0").hexdigest()}
LOST = {"error": "TaskExecutionFailed", "code": "TASK_LOST", "text": "TASK_LOST: it died"}


def test_a_right_task_is_no_offence(tmp_path: Path) -> None:
    account = books(tmp_path, [RIGHT], "began ended")
    assert account.offences == []
    assert account.outcomes == {"right": 1}


@pytest.mark.parametrize(
    ("outcomes", "ran", "word"),
    [
        ([{"value": "other"}], "began ended", "wrong value"),
        ([], "began", "no outcome"),
        ([RIGHT, RIGHT], "began ended", "2 outcomes"),
        ([{"hangs": True}], "began", "hangs"),
        ([RIGHT], "began", "never ran to its end"),
        ([RIGHT], "began ended began ended", "began 2 times"),
        ([{"error": "OSError", "code": "", "text": "broken"}], "", "unexpected error"),
        ([{**LOST, "text": "it died"}], "", "does not show the code"),
        ([{**LOST, "code": "RELAY_UNREACHABLE"}], "", "accepted, and given up"),
        ([{**LOST, "text": "TASK_LOST: it ended before it sent a result"}], "", "kept no account"),
    ],
)
def test_each_broken_promise_is_an_offence(
    tmp_path: Path, outcomes: list[dict[str, Any]], ran: str, word: str
) -> None:
    assert any(word in offence for offence in books(tmp_path, outcomes, ran).offences)


def test_a_second_run_is_allowed_where_the_template_says_so(tmp_path: Path) -> None:
    assert books(tmp_path, [RIGHT], "began began ended", retry=True).offences == []


def test_a_lost_task_that_was_to_be_retried_is_an_offence(tmp_path: Path) -> None:
    assert any("to be retried" in text for text in books(tmp_path, [LOST], "began", retry=True).offences)


def test_what_the_relay_still_has_open_is_an_offence(tmp_path: Path) -> None:
    assert any(
        "still has it open" in text for text in books(tmp_path, [RIGHT], "began ended", open_task=True).offences
    )


def test_an_error_for_everybody_is_no_service(tmp_path: Path) -> None:
    assert any("no service" in offence for offence in books(tmp_path, [LOST], "").offences)


def test_a_traceback_in_any_log_is_an_offence(tmp_path: Path) -> None:
    quiet, loud = tmp_path / "quiet.log", tmp_path / "loud.log"
    quiet.write_text("all is well\n")
    loud.write_text("Traceback (most recent call last):\n  ...\nKeyError: 1\n")
    (found,) = chaos_account.tracebacks([quiet, loud])
    assert "loud.log" in found
    assert "KeyError" in found


def test_a_seed_gives_the_same_schedule_with_every_kind_of_kill() -> None:
    faults = schedule(7, kills=10, span_s=60.0)
    assert faults == schedule(7, kills=10, span_s=60.0) != schedule(8, kills=10, span_s=60.0)
    kills = [fault.what for fault in faults if fault.is_kill]
    assert len(kills) == 10
    assert set(kills) == set(KILLS)
