from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.admit import replay
from mep.admit.replay import ReplayCache
from mep.base.codes import Code
from mep.base.errors import RefusedError


def test_a_command_is_obeyed_once_until_it_expires() -> None:
    cache = ReplayCache()
    assert not cache.seen("a", 100.0, now=10.0)
    assert cache.seen("a", 100.0, now=11.0)
    assert cache.seen("a", 100.0, now=100.0)
    assert not cache.seen("b", 100.0, now=11.0)
    assert not cache.seen("a", 200.0, now=100.1), "after that its age alone refuses it"


def test_the_memory_survives_a_restart() -> None:
    cache = ReplayCache()
    cache.seen("a", 100.0, now=10.0)
    again = ReplayCache.load(cache.dump())
    assert again.seen("a", 100.0, now=20.0)
    assert not again.seen("a", 300.0, now=101.0)


@pytest.mark.parametrize("text", ["", "[]", '{"a": "x"}', '{"a": true}', "{"])
def test_a_damaged_memory_is_noticed(text: str) -> None:
    with pytest.raises(ValueError):
        ReplayCache.load(text)


def test_a_flood_is_refused_and_nothing_is_forgotten_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_REMEMBERED", 3)
    cache = ReplayCache()
    for jti in "abc":
        assert not cache.seen(jti, 100.0, now=1.0)
    with pytest.raises(RefusedError) as caught:
        cache.seen("d", 100.0, now=1.0)
    assert caught.value.code is Code.COMMAND_REPLAYED
    assert cache.seen("a", 100.0, now=1.0)
    assert not cache.seen("d", 200.0, now=101.0)
    assert len(cache) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 3)), max_size=40))
def test_no_command_is_obeyed_twice_within_its_life(steps: list[tuple[str, int, int]]) -> None:
    cache, now = ReplayCache(), 0.0
    obeyed: dict[str, float] = {}
    for jti, life, pause in steps:
        now += pause
        if not cache.seen(jti, now + life, now):
            assert obeyed.get(jti, -1.0) < now
            obeyed[jti] = now + life
