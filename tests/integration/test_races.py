"""Whatever happens around a user endpoint, in whatever order, each task ends once: by its result or a named error.

The orders are explored on a model (support.raceworld says what in it is real: the decisions of relay, monitor and
user endpoint; and what is modelled: broker, processes, engine, client), on a clock that only the model moves. What
happens, and what must come of it, is in support.raceorders; how many orders there are is asserted here. These are
always the same ones; `./dev races` explores all of them, and others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.raceorders import EVENTS, SITUATIONS, MakeWorld, Order, explore, judge, pairs, walks
from support.raceworld import model

EXAMPLES = int(os.environ.get("MEP_RACES_EXAMPLES", "60"))  # others, and other ones: `./dev races`


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = tempfile.mkdtemp(prefix="mep-races-", dir=place)
    with model(monkeypatch) as build:
        yield lambda: build(Path(tempfile.mkdtemp(dir=folder)))
    shutil.rmtree(folder)


def explore_all(make: MakeWorld, orders: Iterable[Order], record: Callable[[str, object], None]) -> int:
    count = 0
    for order in orders:
        explore(make, order)
        count += 1
    record("orders", count)
    return count


@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_two_events_in_any_situation(
    make: MakeWorld, situation: str, record_property: Callable[[str, object], None]
) -> None:
    assert explore_all(make, pairs(situation), record_property) == len(EVENTS) ** 2 == 225


def test_three_to_six_events_in_any_situation(
    make: MakeWorld, record_property: Callable[[str, object], None]
) -> None:
    assert explore_all(make, walks(300), record_property) == 300


def test_who_submits_while_others_are_refused_is_refused_or_served(make: MakeWorld) -> None:
    """The queue of those who are refused is emptied: never of a task that is told of later, or not at all."""
    for milliseconds in range(0, 60, 2):
        world = make()
        try:
            world.do(world.drain)
            world.do(lambda: world.submit(0.2))  # noqa: B023 - done at once
            world.advance(milliseconds / 1000)
            world.do(lambda: world.submit(0.2))  # noqa: B023
            world.advance(3.0)
            assert set(world.check().values()) == {"ENDPOINT_DRAINING"}
            world.do(world.drain)
            world.do(lambda: world.submit(0.2))  # noqa: B023
            world.advance(3.0)
            assert sorted(world.check().values()) == ["ENDPOINT_DRAINING", "ENDPOINT_DRAINING", "done"]
            assert world.runs.total() == 1, "who was refused has run"
        finally:
            world.close()


def test_who_is_being_mapped_while_the_rules_change_is_served_by_the_new_ones(make: MakeWorld) -> None:
    asked_again = 0
    for milliseconds in range(0, 60, 4):
        world = make()
        try:
            world.do(lambda: world.submit(0.2))  # noqa: B023 - done at once
            world.advance(milliseconds / 1000)
            world.edition += 1
            world.advance(3.0)
            assert list(world.check().values()) == ["done"]
            asked_again += any("COMMAND_STALE" in line for line in world.log)
        finally:
            world.close()
    assert asked_again, "no change came while somebody was mapped"


class Races(RuleBasedStateMachine):
    """Any events, any time between them, and a smallest example of what goes wrong. What is true at every moment
    is asserted by the model itself: one user endpoint of an id at a time, no step that fails, no error logged."""

    make: MakeWorld

    @initialize(situation=st.sampled_from(sorted(SITUATIONS)))
    def begin(self, situation: str) -> None:
        self.world = self.make()
        SITUATIONS[situation](self.world)
        self.happened = {situation}
        self.away = False

    @rule(seconds=st.sampled_from([0.0, 0.2, 3.0]))
    def submit(self, seconds: float) -> None:
        self.world.do(lambda: self.world.submit(seconds))

    @rule(name=st.sampled_from(sorted(set(EVENTS) - {"submit", "idle", "broker restarts", "mep stop, start"})))
    def event(self, name: str) -> None:
        EVENTS[name](self.world)
        self.happened.add(name)

    @rule()
    def broker_goes_or_comes(self) -> None:
        self.world.do(self.world.broker_up if self.away else self.world.broker_down)
        self.away = not self.away

    @rule()
    def start(self) -> None:
        self.world.do(self.world.start)

    @rule(seconds=st.sampled_from([0.004, 0.02, 0.05, 0.3, 1.0, 3.5, 5.0, 15.01]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @invariant()
    def a_stopped_endpoint_starts_nothing(self) -> None:
        if hasattr(self, "world") and self.world.daemon.over:
            assert not any(child.ended is None for child in self.world.children.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                judge(self.world, self.happened)
            finally:
                self.world.close()


def test_any_order_at_any_time(make: MakeWorld) -> None:
    Races.make = staticmethod(make)
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Races,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=14, deadline=None, suppress_health_check=health,
            database=None, derandomize="MEP_RACES_EXAMPLES" not in os.environ,
        ),
    )  # fmt: skip
