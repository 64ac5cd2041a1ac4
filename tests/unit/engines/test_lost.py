"""The words for a worker's death."""

from __future__ import annotations

from pathlib import Path

import pytest

from mep.base.sizes import killed_by_memory
from mep.engines import lost
from mep.engines.losses import Losses
from mep.engines.lost import MemoryEvents, how_it_ended, worker_lost


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (3, "exited with status 3"),
        (0, "exited with status 0"),
        (-11, "killed by signal 11 (SIGSEGV"),
        (-9, "killed by signal 9 (SIGKILL"),
        (-200, "killed by signal 200 (unknown)"),
    ],
)
def test_status_in_words(status: int, says: str) -> None:
    assert says in how_it_ended(status)


def test_a_kill_by_the_memory_limit_says_so() -> None:
    why = killed_by_memory(2 << 30)
    assert how_it_ended(-9, by_memory=why) == "was killed: memory limit 2 GiB"
    assert "memory" not in how_it_ended(-9)
    code, text = worker_lost("The worker was killed: memory limit 2 GiB.", by_memory=why)
    assert code == "LIMIT_EXCEEDED"
    assert text.startswith("LIMIT_EXCEEDED: The worker was killed: memory limit 2 GiB. Use less, ")


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ("oom 1\noom_kill 1\n", "killed: memory limit 300 MiB"),
        ("oom 0\noom_kill 1\n", "killed: the machine or the service ran out of memory"),
    ],
)
def test_the_kernels_counters_say_whose_limit_it_was(
    events: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "memory.events"
    counters.write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
    (tmp_path / "memory.max").write_text(f"{300 << 20}\n")
    monkeypatch.setattr(lost, "_events_file", lambda: (str(counters), "oom"))
    memory = MemoryEvents()
    counters.write_text(events)
    assert memory.killed() == says
    assert memory.killed() == "", "each kill is told once"
    counters.write_text(events.replace("oom 0", "oom 1"))
    assert memory.killed() == "", "somebody waited for memory, and got it"


def test_a_task_is_started_again_as_often_as_setting_or_user_endpoint_allow() -> None:
    allowed = {"rerun"}
    losses = Losses(1, lambda task_id: task_id in allowed)
    assert losses.again("once")
    assert not losses.again("once")
    assert losses.forget("once") == 2
    assert all(losses.again("rerun") for _ in range(3))
    assert not losses.again("rerun", lost=False), "not what failed in another way"
    allowed.clear()
    assert not losses.again("rerun")
    assert losses.again("once"), "an ended task is forgotten"


def test_who_is_killed_for_memory_twice_is_not_started_again() -> None:
    losses = Losses(10, lambda _task_id: True)
    assert losses.again("fat", by_memory=True)
    assert losses.again("fat")
    assert not losses.again("fat", by_memory=True)


def test_the_kernels_counter_can_be_read() -> None:
    assert not MemoryEvents().killed()


def test_the_user_gets_code_and_next_step() -> None:
    code, text = worker_lost("The worker died.")
    assert code == "WORKER_LOST"
    assert text.startswith("WORKER_LOST: The worker died. ")
