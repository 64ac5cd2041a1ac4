"""Whatever happens around a user endpoint, in whatever order, each task ends once: by its result or a named error.

The orders are explored on a model (support.raceworld says what in it is real: the decisions of relay, monitor and
user endpoint; and what is modelled: broker, processes, engine, client), on a clock that only the model moves.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.raceworld import World, model

MakeWorld = Callable[[Path], World]

#: What may become of a task for which somebody was killed, stopped or told to refuse. Nothing else.
NAMED = {"done", "TASK_LOST", "UEP_DIED", "ENDPOINT_STOPPING", "ENDPOINT_DRAINING", "START_TIMEOUT"}
#: What takes nothing from anybody, if one waits long enough.
HARMLESS = {"submit", "start command", "idle", "gate dies", "relay dies", "broker restarts"}


def _each(world: World, *steps: Callable[[], None] | float) -> None:
    """Do the steps one after the other; a number lets so many seconds pass."""
    for step in steps:
        if isinstance(step, float):
            world.advance(step)
        else:
            world.do(step)


EVENTS: dict[str, Callable[[World], object]] = {
    "submit": lambda world: world.do(lambda: world.submit(0.5)),
    "start command": lambda world: world.do(world.start_command),
    "idle": lambda world: world.advance(world.until_it_leaves()),
    "gate dies": lambda world: world.do(world.kill_gate),
    "relay dies": lambda world: world.do(world.restart_relay),
    "broker restarts": lambda world: _each(world, world.broker_down, 0.1, world.broker_up),
    "user endpoint dies": lambda world: world.do(world.kill_uep),
    "monitor restarts": lambda world: _each(world, world.kill_monitor, world.start),
    "mep stop, start": lambda world: _each(world, world.stop, GRACE_S, world.start),
    "settings refuse, or not": lambda world: world.do(world.drain),
}
GRACE_S = 3.2


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    folders: list[Path] = []

    with model(monkeypatch) as build:

        def made(_folder: Path | None = None) -> World:
            place = "/dev/shm" if Path("/dev/shm").is_dir() else None
            folders.append(Path(tempfile.mkdtemp(prefix="mep-races-", dir=place)))
            return build(folders[-1])

        yield made
    for folder in folders:
        shutil.rmtree(folder)


def judge(world: World, happened: set[str]) -> None:
    world.settle()
    outcomes = set(world.check().values())
    allowed = {"done"} if happened <= HARMLESS else NAMED
    assert outcomes <= allowed, "\n".join([f"{outcomes - allowed} after", *world.log])


@pytest.mark.parametrize("gap_s", [0.0, 0.3])
def test_every_order_of_two_events_while_the_first_start_ends(make: MakeWorld, gap_s: float) -> None:
    for order in itertools.permutations(EVENTS, 2):
        explore(make, order, gap_s)


@pytest.mark.parametrize("last", ["submit", "start command"])
def test_every_two_events_around_an_idle_stop(make: MakeWorld, last: str) -> None:
    for one in sorted(set(EVENTS) - {"idle", last}):
        explore(make, (one, "idle", last), 0.005)
        explore(make, ("idle", last, one), 0.005)


def explore(make: MakeWorld, order: tuple[str, ...], gap_s: float) -> None:
    world = make(Path())
    try:
        world.do(lambda: world.submit(0.2))
        world.advance(0.09)
        for name in order:
            EVENTS[name](world)
            world.advance(gap_s)
        judge(world, set(order))
    finally:
        world.close()


class Races(RuleBasedStateMachine):
    """Any events, any time between them. What is true at every moment is asserted by the model itself: one user
    endpoint of an id at a time, no step that fails."""

    make: MakeWorld

    @initialize()
    def begin(self) -> None:
        self.world = self.make(Path())
        self.happened: set[str] = set()
        self.away = False

    @rule(seconds=st.sampled_from([0.0, 0.2, 8.0]))
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
    def stop(self) -> None:
        self.world.do(self.world.stop)
        self.happened.add("stop")

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
            max_examples=60, stateful_step_count=14, deadline=None, suppress_health_check=health, database=None
        ),
    )
