"""What a start command for a user endpoint that is there means, and what is started after its end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.daemon.wishes import Answer, Wish, Wishes
from mep.wire.signing import StartClaims


def wish_of(token_id: str) -> Wish:
    claims = StartClaims(aud="e", jti=token_id, iat=0.0, exp=1.0, uep="u", sub="s", ids=[], sha256="")
    return Wish(token_id, claims, os.open(os.devnull, os.O_RDONLY), 0.0)


def is_open(wish: Wish) -> bool:
    try:
        os.fstat(wish.payload_fd)
    except OSError:
        return False
    return True


@pytest.fixture
def wishes() -> Iterator[Wishes]:
    made = Wishes(wish_of("first"))
    yield made
    if (left := made.take_next(by_itself=True)) is not None:
        left.close()


def test_a_new_command_is_handed_to_the_living_and_waits_for_the_end_of_the_leaving(wishes: Wishes) -> None:
    wish = wish_of("new")
    assert wishes.answer(wish, seen=False, leaving=False) is Answer.HAND_OVER
    assert wishes.answer(wish, seen=False, leaving=True) is Answer.WAIT
    wish.close()


@pytest.mark.parametrize("leaving", [False, True])
def test_a_command_that_is_delivered_again_is_not_obeyed_twice(wishes: Wishes, leaving: bool) -> None:
    handed = wish_of("handed")
    wishes.hand_over(handed)
    first = wish_of("first")
    for known in (first, handed):
        assert wishes.answer(known, seen=True, leaving=leaving) is Answer.RUNS
    stranger = wish_of("of another time")
    assert wishes.answer(stranger, seen=True, leaving=leaving) is Answer.REFUSE
    for wish in (first, stranger):
        wish.close()


def test_one_that_waits_and_is_delivered_again_still_waits(wishes: Wishes) -> None:
    late = wish_of("late")
    assert wishes.wait(late) is None
    again = wish_of("late")
    assert wishes.answer(again, seen=True, leaving=True) is Answer.WAIT
    assert wishes.wait(again) is late, "to be settled"
    late.close()
    assert wishes.take_next(by_itself=False) is again
    again.close()


@pytest.mark.parametrize("by_itself", [False, True])
def test_what_waits_is_always_started_and_what_was_handed_over_only_after_a_leave(by_itself: bool) -> None:
    waiting, handed = Wishes(wish_of("1")), Wishes(wish_of("2"))
    late, newer = wish_of("late"), wish_of("newer")
    waiting.wait(late)
    handed.hand_over(newer)
    assert waiting.take_next(by_itself=by_itself) is late
    assert handed.take_next(by_itself=by_itself) is (newer if by_itself else None)
    assert is_open(newer) is by_itself
    for wish in filter(is_open, (late, newer)):
        wish.close()


def test_what_was_handed_over_long_ago_starts_nothing_and_what_waits_is_not_forgotten(wishes: Wishes) -> None:
    old, newer = wish_of("old"), wish_of("newer")
    wishes.hand_over(old)
    wishes.hand_over(newer)
    wishes.forget(old)
    assert wishes.handed_over is newer
    wishes.forget(newer)
    assert wishes.take_next(by_itself=True) is None
    late = wish_of("late")
    wishes.wait(late)
    wishes.forget(late)
    assert wishes.take_next(by_itself=False) is late
    late.close()


@given(st.lists(st.sampled_from(["hand over", "wait", "forget", "decide", "drop"]), max_size=8), st.booleans())
def test_whatever_comes_each_payload_is_closed(steps: list[str], by_itself: bool) -> None:
    made = [wish_of("first")]
    wishes = Wishes(made[0])
    for number, step in enumerate(steps):
        if step in ("hand over", "wait"):
            made.append(wish_of(str(number)))
            overtaken = (wishes.hand_over if step == "hand over" else wishes.wait)(made[-1])
            if overtaken is not None:
                overtaken.close()
        elif step == "forget":
            wishes.forget(made[-1])
        else:
            (wishes.decide if step == "decide" else wishes.drop_later)()
    following = wishes.take_next(by_itself=by_itself)
    if following is not None:
        following.close()  # its new owner's to do
    assert not any(os.path.exists(f"/proc/self/fd/{wish.payload_fd}") for wish in made)
