"""When a user endpoint leaves because nothing happens."""

from __future__ import annotations

from mep.endpoint.idle import IdleClock, Verdict


def test_soft_limit_counts_heartbeats_with_nothing_at_hand() -> None:
    clock = IdleClock(3, 100)
    assert clock.beat(0) == Verdict(beats_left=3)  # it has just begun: that was a movement
    assert [clock.beat(0).beats_left for _ in range(2)] == [2, 1]
    assert clock.beat(0).leave


def test_a_movement_begins_the_count_anew() -> None:
    clock = IdleClock(2, 100)
    clock.beat(0)
    clock.beat(0)
    clock.moved()
    assert not clock.beat(0).leave
    assert clock.beat(0).beats_left == 1
    assert clock.beat(0).leave


def test_an_outstanding_task_holds_the_soft_limit() -> None:
    clock = IdleClock(1, 100)
    assert not any(clock.beat(1).leave for _ in range(20))


def test_hard_limit_ends_a_task_that_never_returns() -> None:
    clock = IdleClock(1, 5)
    verdicts = [clock.beat(1) for _ in range(6)]
    assert [v.leave for v in verdicts] == [False] * 5 + [True]
    assert verdicts[-1].hard


def test_soft_limit_zero_means_never_and_switches_the_hard_one_off() -> None:
    clock = IdleClock(0, 1)
    assert not any(clock.beat(outstanding).leave for outstanding in (0, 1, 0, 1, 1, 1))


def test_hard_limit_zero_means_never() -> None:
    clock = IdleClock(1, 0)
    assert not any(clock.beat(1).leave for _ in range(20))
