"""Closing what a fork has inherited."""

from __future__ import annotations

import os

import pytest

from mep.priv import clone, fds


def in_child(check: object) -> int:
    child = clone.spawn(check)  # type: ignore[arg-type] # returns an int
    found = clone.reap(child.pidfd, block=True)
    os.close(child.pidfd)
    assert found is not None
    assert found.signal == 0
    return found.status


@pytest.mark.parametrize("kept", [[], [0], [0, 1, 2], [2, 7], [0, 5, 6]])
def test_only_what_is_kept_stays_open(kept: list[int]) -> None:
    def check() -> int:
        spare = os.open("/dev/null", os.O_RDONLY)
        for fd in (5, 6, 7, 8, 300):
            os.dup2(spare, fd)
        os.set_inheritable(spare, False)
        fds.close_all_except(kept)
        still = [fd for fd in (0, 1, 2, 5, 6, 7, 8, 300) if _is_open(fd)]
        return 0 if still == kept else 1

    assert in_child(check) == 0


def test_standard_streams_lead_nowhere() -> None:
    def check() -> int:
        fds.null_standard_streams()
        return 0 if {os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)} == {"/dev/null"} else 1

    assert in_child(check) == 0


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
