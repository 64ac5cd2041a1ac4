"""So many request processes at once, and nobody waits behind somebody else's crowd."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.daemon import turns
from mep.daemon.loop import Loop
from mep.daemon.turns import MOST_AT_ONCE, MOST_OF_ONE, MOST_WAITING_OF_ONE, Turns
from mep.daemon.wishes import Wish
from mep.wire.signing import StartClaims


class Rig:
    def __init__(self) -> None:
        self.loop = Loop()
        self.asking: list[str] = []
        self.there: set[str] = set()
        self.late: list[str] = []
        self.turns = Turns(self.loop, asking=lambda: self.asking, present=self.there.__contains__, late=self._late)
        self.fd = os.open(os.devnull, os.O_RDONLY)

    def _late(self, wish: Wish) -> None:
        self.late.append(wish.request_id)

    def wish(self, identity: str, uep_id: str) -> Wish:
        claims = StartClaims(aud="e", jti=uep_id, iat=0.0, exp=1.0, uep=uep_id, sub=identity, ids=[], sha256="")
        return Wish(uep_id, claims, self.fd, 0.0)

    def waits(self, identity: str, uep_id: str, *, seen: bool = False) -> None:
        wish = self.wish(identity, uep_id)
        assert not self.turns.comes_now(wish)
        self.turns.wait(wish, seen=seen)

    def next(self) -> str:
        one = self.turns.following()
        return one.wish.request_id if one is not None else ""


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    os.close(made.fd)


def test_one_identity_has_so_many_at_once_and_the_others_go_on(rig: Rig) -> None:
    rig.asking = ["alice"] * MOST_OF_ONE
    rig.waits("alice", "a1")
    assert rig.turns.comes_now(rig.wish("bob", "b1"))
    rig.asking.pop()
    assert (rig.next(), rig.next()) == ("a1", "")


def test_all_together_have_so_many_at_once_in_the_order_they_came(rig: Rig) -> None:
    rig.asking = [str(number) for number in range(MOST_AT_ONCE)]
    for uep_id in ("x1", "x2"):
        rig.waits(f"who wants {uep_id}", uep_id)
    assert rig.next() == ""
    rig.asking.pop()
    assert rig.next() == "x1"


def test_a_command_for_one_that_is_there_needs_no_turn_but_its_place(rig: Rig) -> None:
    rig.asking = ["alice"] * MOST_OF_ONE
    rig.there.add("running")
    assert rig.turns.comes_now(rig.wish("alice", "running"))
    rig.waits("alice", "a1")
    rig.waits("alice", "a1", seen=True)
    rig.asking.pop()
    assert rig.next() == "a1"
    rig.there.add("a1")
    rig.asking.append("alice")
    second = rig.turns.following()
    assert second is not None
    assert second.seen


def test_a_crowd_that_waits_is_refused_by_name(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.asking = ["alice"] * MOST_AT_ONCE
    for number in range(MOST_WAITING_OF_ONE):
        rig.waits("alice", str(number))
    with pytest.raises(RefusedError) as caught:
        rig.waits("alice", "one more")
    assert caught.value.code is Code.START_RATE_EXCEEDED
    monkeypatch.setattr(turns, "MOST_WAITING", MOST_WAITING_OF_ONE)
    with pytest.raises(RefusedError) as caught:
        rig.waits("bob", "b1")
    assert caught.value.code is Code.ENDPOINT_FULL


def test_nobody_waits_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_S", 0.01)
    rig.asking = ["alice"] * MOST_OF_ONE
    rig.waits("alice", "a1")
    rig.loop.step(1.0)
    assert rig.late == ["a1"]
    assert len(rig.turns) == 0
