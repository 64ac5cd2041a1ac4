"""ProcessPoolEngine inside a real user endpoint: what kills a worker fails its task, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mep.wire.taskevents import Place
from support.uep import Running, Site, task_buffer, user_endpoint, value_of
from support.wait import until

TEMPLATE = "engine:\n  type: ProcessPoolEngine\n  max_workers: 2\n"


def _segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def _exit() -> None:
    import os

    os._exit(3)


def _kill() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def _kill_group() -> None:
    import os
    import signal

    os.kill(0, signal.SIGKILL)


@pytest.mark.parametrize(
    ("crash", "says"),
    [
        (_segfault, "signal 11 (SIGSEGV"),
        (_exit, "exited with status 3"),
        (_kill, "signal 9 (SIGKILL"),
        (_kill_group, "signal 9 (SIGKILL"),
    ],
)
def test_a_crash_fails_its_task_alone_and_says_how(
    place: Site, running: Running, crash: Callable[[], Any], says: str
) -> None:
    def slow() -> int:
        import time

        time.sleep(0.3)
        return 7

    before, broken, after = place.submit(slow), place.submit(crash), place.submit(slow)
    result = place.result(broken)
    assert result.error_details is not None
    assert result.error_details.code == "WORKER_LOST"
    assert says in result.data
    for task_id in (before, after):
        assert place.result(task_id).error_details is None


def test_the_worker_of_a_task_is_told(place: Site, tmp_path: Path) -> None:
    """To the audit log, when the worker has the task and not only with its end."""
    with user_endpoint(place, tmp_path, TEMPLATE, task_events=True) as running:

        def pid() -> int:
            import os

            return os.getpid()

        task_id = place.submit(pid)
        worker = value_of(place.result(task_id))
        steps = running.steps(task_id)
        assert [step.state for step in steps] == ["received", "started", "running", "ended"]
        assert steps[2].place == Place(worker)


def test_memory_above_the_limit_fails_its_task_alone(place: Site, running: Running) -> None:
    def blow_up() -> int:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return len(b"x" * (4 << 30))

    result = place.result(place.submit(blow_up))
    assert result.error_details is not None
    assert "MemoryError" in result.data
    assert place.run(int) == 0


def test_sys_exit_is_an_error_of_the_task(place: Site, running: Running) -> None:
    def leave() -> None:
        raise SystemExit(5)

    result = place.result(place.submit(leave))
    assert result.error_details is not None
    assert "SystemExit: 5" in result.data


def test_a_forked_child_of_a_task_does_not_become_a_worker(place: Site, running: Running) -> None:
    def forks() -> str:
        import os

        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return "parent"
        return "child"

    for _ in range(3):
        task_id = place.submit(forks)
        place.result(task_id)
        assert place.run(int) == 0
        assert len(place.results[task_id]) == 1


def test_a_worker_has_no_descriptor_of_the_user_endpoint(place: Site, running: Running) -> None:
    def descriptors() -> list[str]:
        import os

        found = []
        for name in sorted(os.listdir("/proc/self/fd"), key=int):
            try:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                continue
        return found

    found = place.run(descriptors)
    assert len(found) == 4, found  # 0, 1, 2 and its own socket
    assert sum(name.startswith("socket:") for name in found) == 1


def test_workers_die_with_a_killed_user_endpoint(place: Site, running: Running, tmp_path: Path) -> None:
    def hang() -> None:
        import os
        import time

        with open("worker.pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(60)

    place.submit(hang)
    path = tmp_path / "tasks_working_dir" / "worker.pid"
    pid = int(until(lambda: path.exists() and path.read_text(), "the worker's pid"))
    running.kill(signal.SIGKILL)
    running.wait()
    until(lambda: not _alive(pid), "the end of the worker", timeout_s=2.0)


def test_a_function_may_use_its_own_event_loop(place: Site, running: Running) -> None:
    def uses_asyncio() -> int:
        import asyncio

        async def seven() -> int:
            await asyncio.sleep(0)
            return 7

        return asyncio.run(seven())

    assert place.run(uses_asyncio) == 7


def test_writing_to_the_workers_socket_fails_the_task_alone(place: Site, running: Running) -> None:
    def scribble() -> None:
        import os

        for fd in range(3, 100):
            try:
                os.write(fd, b"\xff" * 4096)
            except OSError:
                continue

    result = place.result(place.submit(scribble))
    assert result.error_details is not None
    assert result.error_details.code == "WORKER_LOST"
    assert place.run(int) == 0


def test_a_large_result_does_not_hold_up_others(place: Site, running: Running) -> None:
    large = place.submit(lambda: "x" * (7 * 1024 * 1024))
    assert place.run(int) == 0
    assert place.result(large).error_details is None


def test_a_thousand_tasks(place: Site, running: Running) -> None:
    began = time.monotonic()
    place.run(int)
    print(f"first task: {(time.monotonic() - began) * 1e3:.1f} ms")
    buffer = task_buffer(int)
    began = time.monotonic()
    ids = [place.submit_buffer(buffer) for _ in range(1000)]
    place.pump(lambda: len(place.results) > 1000, "1000 results")
    print(f"1000 tasks in processes: {1000 / (time.monotonic() - began):.0f}/s")
    assert set(ids) <= set(place.results)
    took = []
    for _ in range(100):
        began = time.monotonic()
        place.run(int)
        took.append(time.monotonic() - began)
    print(f"one after the other: median {sorted(took)[50] * 1e3:.1f} ms")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")
