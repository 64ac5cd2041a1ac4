"""The accounts after the chaos: every task has exactly one outcome, the right one, and nothing ran twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_client import Job

#: How a task may end when things are killed under it. Anything else is a fault of ours.
NAMED = ("TASK_LOST", "WORKER_LOST", "UEP_DIED", "RELAY_UNREACHABLE", "BROKER_UNREACHABLE")
#: Those of them that only a task may have which was never accepted: an accepted one has its fate elsewhere.
REFUSALS = ("RELAY_UNREACHABLE", "BROKER_UNREACHABLE")
#: The relay's words for a user endpoint that forgot a task. One that keeps a journal forgets none.
FORGOTTEN = "ended before it sent a result"
MOST_NAMED = 0.1  # of all tasks: "everything was lost, with a code" is no success


@dataclass
class Account:
    """What became of all tasks. `offences`: one line per task (or place) that broke a promise."""

    outcomes: Counter[str] = field(default_factory=Counter)
    offences: list[str] = field(default_factory=list)
    tasks: int = 0


def settle(jobs: list[Job], relay_dir: Path) -> Account:
    """Compare what futures said with what ran, and with what the relay still has open."""
    account = Account(tasks=sum(job.tasks for job in jobs))
    states = _Relay(relay_dir)
    for job in jobs:
        _settle_one(job, account, states)
    named = sum(account.outcomes[code] for code in NAMED)
    if named > MOST_NAMED * account.tasks:
        account.offences.append(f"{named} of {account.tasks} tasks ended in an error: that is no service")
    for task_id, uep_id, state in states.open_tasks():
        account.offences.append(f"task {task_id}: the relay still has it open (user endpoint {uep_id}: {state})")
    return account


def tracebacks(logs: list[Path]) -> list[str]:
    """Return one line for each log that holds a traceback: nothing that was done here is a defect's excuse."""
    found = []
    for log in logs:
        text = log.read_text(errors="replace")
        if (at := text.find("Traceback")) >= 0:
            found.append(f"{text.count('Traceback')} tracebacks in {log}, the first: {text[at : at + 2000]}")
    return found


def _settle_one(job: Job, account: Account, states: _Relay) -> None:
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in _lines(job.outcomes):
        entry = json.loads(line)
        told[entry["marker"]].append(entry)
    began: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for line in _lines(job.ran):
        word, marker, *_ = line.split()
        (began if word == "began" else ended)[marker] += 1
    for number in range(job.tasks):
        marker = f"{job.name}.{number}"
        entries = told.get(marker, [])
        outcome, wrong = _judge(marker, entries)
        account.outcomes[outcome] += 1
        if not wrong and outcome in ("right", "raised") and not ended[marker]:
            wrong = "has a result and never ran to its end"
        if not wrong and began[marker] > 1 and not job.options["retry"]:
            wrong = f"began {began[marker]} times"
        if not wrong and outcome == "TASK_LOST":
            wrong = _lost_wrongly(entries[0]["text"], began[marker], retry=job.options["retry"])
        if wrong:
            task_id = entries[0].get("task_id") if entries else None
            ran = f"began {began[marker]}, ended {ended[marker]} times"
            account.offences.append(f"{marker} (task {task_id}): {wrong}; {ran}; {states.of(task_id)}")


def _judge(marker: str, entries: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the outcome's name, and what is wrong with it."""
    if not entries:
        return "missing", "no outcome: its client ended before"
    if len(entries) > 1:
        return "several", f"{len(entries)} outcomes"
    entry, value = entries[0], hashlib.sha256(marker.encode()).hexdigest()
    if entry.get("hangs"):
        return "hanging", "its future hangs"
    if "error" not in entry:
        right = entry["value"] == value and entry["kind"] != "raising"
        return ("right", "") if right else ("wrong", f"wrong value {entry['value']!r}")
    if entry["kind"] == "raising" and f"LookupError: {value}" in entry["text"]:
        return "raised", ""
    if entry["code"] in REFUSALS and entry["task_id"]:
        return entry["code"], "it was accepted, and given up"
    if entry["code"] in NAMED:
        return entry["code"], "" if entry["code"] in entry["text"] else "its error does not show the code"
    return entry["code"] or entry["error"], f"unexpected error: {entry['error']} {entry['text'][-400:]!r}"


def _lost_wrongly(text: str, began: int, *, retry: bool) -> str:
    if FORGOTTEN in text:
        return "its user endpoint kept no account of it"
    return f"lost after {began} starts, and to be retried" if retry and began < 3 else ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


class _Relay:
    """The relay's database, read-only: where the open tasks are."""

    def __init__(self, relay_dir: Path) -> None:
        self._db = sqlite3.connect(f"file:{relay_dir / 'relay.db'}?mode=ro", uri=True)

    def open_tasks(self) -> list[tuple[str, str, str]]:
        query = (
            "SELECT tasks.id, tasks.uep_id, ueps.state FROM tasks LEFT JOIN ueps ON ueps.id = tasks.uep_id "
            "WHERE tasks.done IS NULL"
        )
        return self._db.execute(query).fetchall()

    def of(self, task_id: str | None) -> str:
        """Return the last known state of a task."""
        if not task_id:
            return "never accepted by the relay"
        query = (
            "SELECT tasks.created, tasks.done, tasks.uep_id, ueps.state FROM tasks "
            "LEFT JOIN ueps ON ueps.id = tasks.uep_id WHERE tasks.id = ?"
        )
        row = self._db.execute(query, (task_id,)).fetchone()
        if row is None:
            return "unknown to the relay"
        created, done, uep_id, state = row
        end = f"done {done - created:.1f} s later" if done else "not done"
        return f"at the relay: created {created:.1f}, {end}, user endpoint {uep_id} {state}"
