"""The words for a worker's death."""

from __future__ import annotations

import pytest

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


class _Killed(MemoryEvents):
    def __init__(self) -> None:
        pass

    def killed(self) -> bool:
        return True

    def limit_bytes(self) -> int | None:
        return 2 << 30


def test_a_kill_by_the_memory_limit_says_so() -> None:
    assert "out of memory, the limit is 2.0 GiB" in how_it_ended(-9, memory=_Killed())
    assert "out of memory" not in how_it_ended(-11, memory=_Killed())


def test_the_kernels_counter_can_be_read() -> None:
    assert not MemoryEvents().killed()


def test_the_user_gets_code_and_next_step() -> None:
    code, text = worker_lost("The worker died.")
    assert code == "WORKER_LOST"
    assert text.startswith("WORKER_LOST: The worker died. ")
