"""GlobusComputeEngine (Parsl, local provider) inside a real user endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mep.wire import envelope
from mep.wire.privsep import Failed
from mep.wire.taskevents import Place
from support.uep import Running, Site, task_buffer, user_endpoint, value_of
from support.wait import until

PARSL = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1
"""


def _commands() -> dict[int, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def _of(running: Running) -> list[str]:
    """Return the command lines that mention this user endpoint's directory."""
    return [text for text in _commands().values() if str(running.state_dir) in text]


def test_tasks_run_on_parsl_workers_and_nothing_is_left(place: Site, tmp_path: Path) -> None:
    began = time.monotonic()
    with user_endpoint(place, tmp_path, PARSL) as running:
        print(f"ready: {time.monotonic() - began:.2f} s")
        assert place.run(lambda a, b: a + b, 2, 3, timeout_s=60) == 5
        print(f"first result: {time.monotonic() - began:.2f} s")

        def where() -> tuple[int, str]:
            import os

            return os.getpid(), os.environ["GC_TASK_UUID"]

        pid, _ = place.run(where)
        assert pid != running.pid
        assert _of(running)
        took = []
        for _ in range(50):
            start = time.monotonic()
            place.run(int)
            took.append(time.monotonic() - start)
        print(f"one after the other: median {sorted(took)[25] * 1e3:.1f} ms")
        buffer = task_buffer(int)
        start, before = time.monotonic(), len(place.results)
        for _ in range(1000):
            place.submit_buffer(buffer)
        place.pump(lambda: len(place.results) == before + 1000, "1000 results")
        print(f"1000 tasks on parsl workers: {1000 / (time.monotonic() - start):.0f}/s")
        start = time.monotonic()
        running.kill(15)
        assert running.wait() == 0, running.log()
        print(f"stopped: {time.monotonic() - start:.2f} s")
        until(lambda: not _of(running), "the end of every process of it", timeout_s=5)


def test_failures_of_tasks_come_back(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, PARSL):

        def broken() -> None:
            raise ValueError("no such thing")

        result = place.result(place.submit(broken), timeout_s=60)
        assert result.error_details is not None
        assert result.error_details.code == "RemoteExecutionError"
        assert "ValueError: no such thing" in result.data

        result = place.result(place.submit(_kills_itself()), timeout_s=60)
        assert result.error_details is not None
        assert result.error_details.code == "WORKER_LOST", result.data

        def forks() -> int:
            import os

            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)  # for ever, if the child became a worker too
            return pid

        assert place.run(forks, timeout_s=60) > 0

        refused = place.submit_buffer(task_buffer(int), headers={envelope.HEADER_RESOURCES: '{"num_nodes": 2}'})
        result = place.result(refused)
        assert result.error_details is not None
        assert "num_nodes" in result.data
        assert place.run(int, timeout_s=60) == 0


@pytest.mark.parametrize("by", ["the worker at once", "the result"])
def test_block_job_host_and_pid_of_a_task_are_told(place: Site, tmp_path: Path, by: str) -> None:
    """To the audit log: by a worker of this host at once, by others with the result; of a dead one by Parsl."""
    with user_endpoint(place, tmp_path, PARSL, task_events=True) as running:
        if by == "the result":
            (tmp_path / "workers").unlink()

        def where(gate: str) -> tuple[int, float]:
            import os
            import time

            began = time.time()
            while not os.path.exists(gate):
                time.sleep(0.01)
            return os.getpid(), began

        gate = tmp_path / "go"
        task_id = place.submit(where, str(gate))
        if by == "the worker at once":
            assert running.steps(task_id, up_to="running")[-1].state == "running"
        gate.touch()
        pid, began = value_of(place.result(task_id, timeout_s=60))
        steps = running.steps(task_id)
        assert [step.state for step in steps] == ["received", "started", "running", "ended"]
        at_work = steps[2].place
        assert at_work is not None
        assert (at_work.pid, at_work.host, at_work.block) == (pid, os.uname().nodename, "0")
        assert at_work.job.isdecimal(), "the local provider's job is a process"
        assert abs(steps[2].at - began) < 2.0

        if by == "the result":
            task_id = place.submit(_kills_itself())
            place.result(task_id, timeout_s=60)
            ended = running.steps(task_id)[-1]
            assert ended.code == "WORKER_LOST"
            assert ended.place == Place(host=at_work.host, block="0", job=at_work.job)


def _kills_itself() -> Callable[[], None]:
    """Return it nested: a function of a test's module has no meaning on a Parsl worker."""

    def killed() -> None:
        import os

        os.kill(os.getpid(), 9)

    return killed


def test_a_block_that_cannot_start_fails_the_tasks_in_its_own_words(place: Site, tmp_path: Path) -> None:
    template = PARSL + "    worker_init: 'echo this site is closed >&2; exit 7'\n"
    with user_endpoint(place, tmp_path, template) as running:
        result = place.result(place.submit(int), timeout_s=60)
        assert result.error_details is not None
        assert result.error_details.code == "ENGINE_FAILED"
        assert "this site is closed" in result.data
        assert running.wait() == 0  # a next start command gets a fresh one


def test_workers_come_for_the_first_task_and_end_with_a_killed_user_endpoint(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, PARSL.replace("init_blocks: 1", "init_blocks: 0")) as running:
        time.sleep(0.5)  # a poll without work
        began = time.monotonic()
        assert place.run(int, timeout_s=60) == 0
        print(f"first result without a block: {time.monotonic() - began:.2f} s")
        assert len(_of(running)) >= 3
        running.kill(9)
        running.wait()
        until(lambda: not _of(running), "the end of every process of it", timeout_s=2)


def test_an_option_that_parsl_refuses_is_named(place: Site, tmp_path: Path) -> None:
    template = PARSL.replace("max_workers_per_node: 2", "max_workers_per_node: many")
    with user_endpoint(place, tmp_path, template, expect_ready=False) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "CONFIG_INVALID"
        assert "max_workers_per_node" in heard.user_text
        assert running.wait() == os.EX_DATAERR
