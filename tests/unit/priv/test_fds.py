"""Closing what a fork has inherited."""

from __future__ import annotations

import os
import resource

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


def test_a_raised_limit_is_lowered_again_with_what_was_inherited_and_only_once() -> None:
    """PAM may set it later, for the user; then that counts."""
    kind = resource.RLIMIT_NOFILE

    def check() -> int:
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (200, hard))
        fds.raise_limit()
        raised, _ = resource.getrlimit(kind)
        fds.close_all_except([0, 1, 2])
        lowered = resource.getrlimit(kind)
        resource.setrlimit(kind, (250, hard))
        fds.close_all_except([0, 1, 2])
        return 0 if (raised > 200, lowered, resource.getrlimit(kind)) == (True, (200, hard), (250, hard)) else 1

    assert in_child(check) == 0


def test_there_is_no_room_where_all_but_the_spare_ones_are_taken() -> None:
    def check() -> int:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        found = []
        for fd in (3, 130, 140, 199):
            while os.open("/dev/null", os.O_RDONLY) < fd:
                pass
            found.append(fds.has_room())
        return 0 if found == [True, True, False, False] else 1

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
