"""The set of messages that were taken is exact, small, and survives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mep.endpoint import numbers
from mep.endpoint.numbers import Numbers
from mep.wire.seal import Stamp

A, B = b"a" * 16, b"b" * 16


def stamp(number: int, sender: bytes = A) -> Stamp:
    return Stamp(sender, number, 0.0)


@given(st.lists(st.tuples(st.sampled_from((A, B)), st.integers(1, 60))))
def test_exactly_what_was_added_is_in_it_also_after_a_compaction(added: list[tuple[bytes, int]]) -> None:
    taken = Numbers()
    for sender, number in added:
        taken.add(sender, number)
    again = Numbers()
    again.restore(taken.kept())
    merged = Numbers()
    for sender, number in added:
        merged.restore([(sender, [number, number])])
    for some in (taken, again, merged):
        for sender in (A, B):
            for number in range(62):
                assert (stamp(number, sender) in some) == ((sender, number) in added)
    for _, bounds in taken.kept():
        assert bounds == sorted(bounds)
        assert all(after - before > 1 for before, after in zip(bounds[1::2], bounds[2::2], strict=False))


def test_a_sender_without_gaps_costs_one_range() -> None:
    taken = Numbers()
    for number in range(1, 100_000):
        taken.add(A, number)
    assert taken.kept() == [(A, [1, 99_999])]


def test_gaps_are_bounded_and_the_oldest_closed() -> None:
    taken = Numbers()
    for number in range(1, 2 * numbers.MOST_RANGES + 4, 2):
        taken.add(A, number)
    ((_, bounds),) = taken.kept()
    assert len(bounds) == 2 * numbers.MOST_RANGES
    assert stamp(2) in taken
    assert stamp(2 * numbers.MOST_RANGES) not in taken


def test_senders_are_bounded_and_who_was_silent_for_longest_is_not_believed_again() -> None:
    taken = Numbers()
    taken.add(A, 1)
    taken.add(B, 1)
    for number in range(numbers.MOST_SENDERS - 1):
        taken.add(number.to_bytes(16, "big"), 1)
        taken.add(A, number + 2)
    assert stamp(2, B) in taken
    again = Numbers()
    again.restore(taken.kept())
    assert stamp(2, B) in again
    assert stamp(numbers.MOST_SENDERS + 5, A) not in again
