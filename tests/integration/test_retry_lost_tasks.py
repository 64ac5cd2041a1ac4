"""retry_lost_tasks covers a worker that dies, with a bound: real kills of real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.uep import Site, user_endpoint, value_of
from support.wait import until

PROCESSES = "engine:\n  type: ProcessPoolEngine\n  max_workers: 2\n"
PARSL = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
"""
RETRY = "retry_lost_tasks: true\n"


def _waiter() -> Callable[[str], int]:
    """Return what runs in the worker, nested: a function of a test's module has no meaning on a Parsl worker."""

    def note_and_wait(folder: str) -> int:
        """Leave a pid, wait for the file "go"; return how often this was started."""
        import os
        import time

        open(f"{folder}/worker.{os.getpid()}", "w").close()
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.02)
        return len([name for name in os.listdir(folder) if name.startswith("worker.")])

    return note_and_wait


def _pid_of(folder: Path, *known: int) -> int:
    """Return the pid of the worker that has the task now."""

    def newest() -> int:
        pids = {int(path.suffix[1:]) for path in folder.glob("worker.*")}
        return next(iter(pids - set(known)), 0)

    return until(newest, "a worker has the task", timeout_s=30.0)


@pytest.mark.parametrize("template", [PROCESSES, PARSL])
def test_a_task_whose_worker_was_killed_runs_again_where_the_template_says_so(
    place: Site, tmp_path: Path, template: str
) -> None:
    with user_endpoint(place, tmp_path, template + RETRY):
        task_id = place.submit(_waiter(), str(tmp_path))
        first = _pid_of(tmp_path)
        os.kill(first, signal.SIGKILL)
        _pid_of(tmp_path, first)
        (tmp_path / "go").touch()
        assert value_of(place.result(task_id, timeout_s=30.0)) == 2


def test_a_task_that_kills_its_workers_is_not_started_for_ever(place: Site, tmp_path: Path) -> None:
    def kills(folder: str) -> None:
        import os

        open(f"{folder}/worker.{os.getpid()}", "w").close()
        os.kill(os.getpid(), 9)

    with user_endpoint(place, tmp_path, PROCESSES + RETRY):
        result = place.result(place.submit(kills, str(tmp_path)))
        assert result.error_details is not None
        assert result.error_details.code == "WORKER_LOST"
        assert "It was tried 3 times" in result.data
        assert len(list(tmp_path.glob("worker.*"))) == 3
        assert place.run(int) == 0


def test_starts_count_over_the_lives_of_user_endpoints(place: Site, tmp_path: Path) -> None:
    """Two starts in a user endpoint that is killed, the third in the next one: that is all."""
    with user_endpoint(place, tmp_path, PROCESSES + RETRY) as running:
        task_id = place.submit(_waiter(), str(tmp_path))
        first = _pid_of(tmp_path)
        os.kill(first, signal.SIGKILL)
        second = _pid_of(tmp_path, first)
        running.kill()
        running.wait()
    with user_endpoint(place, tmp_path, PROCESSES + RETRY):
        os.kill(_pid_of(tmp_path, first, second), signal.SIGKILL)
        result = place.result(task_id)
        assert result.error_details is not None
        assert result.error_details.code == "WORKER_LOST"


def test_a_worker_that_dies_while_the_user_endpoint_leaves_leaves_its_task_to_the_next(
    place: Site, tmp_path: Path
) -> None:
    with user_endpoint(place, tmp_path, PROCESSES + RETRY) as running:
        task_id = place.submit(_waiter(), str(tmp_path))
        first = _pid_of(tmp_path)
        running.kill(signal.SIGTERM)
        until(lambda: "leaves: told to stop" in running.log(), "it leaves")
        os.kill(first, signal.SIGKILL)
        until(lambda: f"(pid {first})" in running.log(), "the death is seen")
        running.kill()  # it would give its tasks a while
        running.wait()
    assert task_id not in place.results
    (tmp_path / "go").touch()
    with user_endpoint(place, tmp_path, PROCESSES + RETRY):
        assert value_of(place.result(task_id)) == 2
