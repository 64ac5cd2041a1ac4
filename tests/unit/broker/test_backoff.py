"""Waiting between tries: doubles, spreads, ends, begins again."""

from __future__ import annotations

from mep.broker.backoff import Backoff


def test_it_doubles_up_to_the_most_and_spreads_a_herd() -> None:
    backoff = Backoff(1.0, 8.0)
    for step_s in (1, 2, 4, 8, 8, 8):
        assert step_s / 2 <= backoff.next_s() <= step_s
    assert len({Backoff(1.0, 8.0).next_s() for _ in range(20)}) > 1


def test_a_success_begins_again() -> None:
    backoff = Backoff(1.0, 8.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 1.0
