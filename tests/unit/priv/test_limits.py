"""Limits: only ever lower; cgroup files where there are controllers, rlimits where not."""

from __future__ import annotations

import resource

from hypothesis import given
from hypothesis import strategies as st

from mep.priv.limits import Limits, describe_limits, how_enforced

numbers = st.none() | st.integers(min_value=1, max_value=2**40)
limits = st.builds(Limits, memory=numbers, swap=numbers, pids=numbers, cpu=st.none() | st.floats(0.1, 64))


@given(limits, limits)
def test_lowering_never_raises(ours: Limits, asked: Limits) -> None:
    result = ours.lowered(asked)
    for name in ("memory", "swap", "pids", "cpu"):
        mine, theirs, found = getattr(ours, name), getattr(asked, name), getattr(result, name)
        assert (found is None) == (mine is None and theirs is None)
        if mine is not None:
            assert found <= mine


def test_what_is_written_into_a_cgroup() -> None:
    files = Limits(memory=2**31, swap=0, pids=100, cpu=2.5).cgroup_files()
    assert files["memory.max"] == str(2**31)
    assert files["memory.swap.max"] == "0"
    assert files["pids.max"] == "100"
    assert files["cpu.max"] == "250000 100000"
    assert Limits().cgroup_files() == {}
    assert Limits(cpu=0.001).cgroup_files() == {"cpu.max": "1000 100000"}, "the kernel takes no less"


def test_rlimits_stand_in_for_missing_controllers() -> None:
    asked = Limits(memory=2**31, pids=100, cpu=1.0)
    assert asked.rlimits(()) == {resource.RLIMIT_AS: 2**31, resource.RLIMIT_NPROC: 100}
    assert asked.rlimits({"memory"}) == {resource.RLIMIT_NPROC: 100}
    assert asked.rlimits({"memory", "pids", "cpu"}) == {}


def test_an_administrator_can_be_told_which() -> None:
    assert how_enforced({"memory", "pids", "cpu"}) == dict.fromkeys(("memory", "swap", "pids", "cpu"), "cgroup")
    assert how_enforced(())["cpu"] == ""
    assert "rlimit" in how_enforced(())["memory"]


def test_one_phrase_says_what_enforces_which_limits() -> None:
    assert describe_limits({"memory", "pids", "cpu"}) == "cgroup (memory, swap, pids, cpu)"
    assert describe_limits({"pids"}) == "rlimit (memory), nothing (swap, cpu), cgroup (pids)"
