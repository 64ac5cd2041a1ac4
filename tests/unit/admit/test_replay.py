from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mep.admit import replay
from mep.admit.replay import KEEP_S, ReplayCache
from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.wire.signing import check_times

HOUR = 3600.0
T = 1_800_000_000.0


def test_a_command_is_obeyed_once_until_it_is_too_old() -> None:
    cache = ReplayCache()
    assert not cache.seen("a", T, now=T)
    assert cache.seen("a", T, now=T + 1)
    assert cache.seen("a", T, now=T + KEEP_S)
    assert not cache.seen("b", T + KEEP_S, now=T + KEEP_S)
    assert not cache.seen("c", T + 2 * KEEP_S, now=T + 2 * KEEP_S + 1)
    assert len(cache) == 1, "what its age alone refuses is not kept"


def test_a_clock_that_goes_forward_and_back_brings_no_command_back() -> None:
    cache = ReplayCache()
    assert not cache.seen("a", T, now=T)
    assert not cache.seen("b", T + HOUR, now=T + HOUR)
    with pytest.raises(RefusedError) as caught:
        cache.seen("a", T, now=T + 10)
    assert caught.value.code is Code.COMMAND_STALE
    assert not cache.seen("new", T + 100, now=T + 100), "what was issued after is obeyed"
    assert cache.seen("b", T + HOUR, now=T + HOUR)


def test_a_command_that_was_said_again_is_known_by_its_last_time() -> None:
    cache = ReplayCache()
    assert not cache.seen("a", T, now=T)
    assert cache.seen("a", T + 500, now=T + 500)
    assert cache.seen("a", T + 500, now=T + KEEP_S + 1)
    cache.forget(T + 2 * KEEP_S)
    with pytest.raises(RefusedError):
        cache.seen("a", T + 500, now=T + 500)


def test_a_flood_is_refused_and_nothing_is_forgotten_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_REMEMBERED", 3)
    cache = ReplayCache()
    for jti in "abc":
        assert not cache.seen(jti, T, now=T)
    with pytest.raises(RefusedError) as caught:
        cache.seen("d", T, now=T)
    assert caught.value.code is Code.COMMAND_REPLAYED
    assert cache.seen("a", T, now=T)
    assert not cache.seen("e", T + HOUR, now=T + HOUR)
    assert len(cache) == 1


def test_the_spans_stay_few_whatever_the_clock_does() -> None:
    cache = ReplayCache()
    for number in range(500):
        at = T + number * HOUR
        assert not cache.seen(str(number), at, now=at)
    assert len(cache.spans) <= 64
    with pytest.raises(RefusedError):
        cache.seen("0", T, now=T)


#: What happens: the clock is set to a time, a command is delivered (again), the daemon is restarted.
STEPS = st.one_of(
    st.tuples(st.just("clock"), st.floats(-8000, 8000)),
    st.tuples(st.just("command"), st.integers(0, 9)),
    st.tuples(st.just("restart"), st.just(0)),
)
#: When each was issued.
ISSUED = st.lists(st.floats(-8000, 8000), min_size=10, max_size=10)


@given(ISSUED, st.lists(STEPS, max_size=40))
@example(
    [0.0] * 10, [("clock", 0.0), ("command", 0), ("clock", 3600.0), ("restart", 0), ("clock", 9.0), ("command", 0)]
)
def test_no_command_is_obeyed_twice_whatever_the_clock_does(
    issued: list[float], steps: list[tuple[str, float]]
) -> None:
    cache, now = ReplayCache(), 0.0
    obeyed: Counter[int] = Counter()
    for kind, value in steps:
        if kind == "clock":
            now = value
        elif kind == "restart":
            cache = ReplayCache(cache.issued, cache.spans)
            cache.forget(now)
        else:
            number = int(value)
            try:
                check_times(issued[number], issued[number] + 180, now=now)
                obeyed[number] += not cache.seen(str(number), issued[number], now)
            except RefusedError:
                continue
    assert max(obeyed.values(), default=0) <= 1


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(-180, 180)), max_size=40))
def test_as_long_as_the_clock_goes_forward_no_fresh_command_is_refused(steps: list[tuple[float, float]]) -> None:
    cache, now = ReplayCache(), T
    for number, (passed, skew) in enumerate(steps):
        now += passed
        assert not cache.seen(str(number), now + skew, now)
