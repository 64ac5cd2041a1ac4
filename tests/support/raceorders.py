"""What happens in the model of the races, in which situation and order, and what must come of it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from support.racedaemon import GRACE_S
from support.raceworld import World

MakeWorld = Callable[[], World]

#: What may become of a task for which somebody was killed, stopped or told to refuse. Nothing else.
NAMED = {"done", "TASK_LOST", "UEP_DIED", "ENDPOINT_STOPPING", "ENDPOINT_DRAINING"}
#: ... and only where that happened.
REFUSALS = {
    "mapping finds nobody, or all": "IDENTITY_NOT_MAPPED",
    "template is broken, or mended": "TEMPLATE_UNDEFINED",
}
#: What takes nothing from anybody, if one waits long enough.
HARMLESS = {"submit", "start command", "idle", "gate dies", "relay dies", "broker restarts"}
#: How long anything may take once nothing more goes wrong, besides the work itself: no promise is kept by a
#: time-out that is longer, where a message should have kept it.
LATE_S = 4.0
#: ... and where somebody died who had news for the relay: it asks again after 5 s.
LATE_WITHOUT_NEWS_S = 9.0
NEWS = {"gate dies", "monitor restarts", "machine restarts", "mep stop, start", "mep stop"}


def _each(world: World, *steps: Callable[[], object] | float) -> None:
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
    "machine restarts": lambda world: _each(world, world.kill_machine, 0.2, world.start),
    "mep stop, start": lambda world: _each(world, world.stop, GRACE_S + 0.2, world.start),
    "mep stop": lambda world: world.do(world.stop),
    "mep stop-user": lambda world: world.do(world.stop_user),
    "settings refuse, or not": lambda world: world.do(world.drain),
    "mapping finds nobody, or all": lambda world: world.do(world.change_mapping),
    "template is broken, or mended": lambda world: world.do(world.change_template),
}

#: What is going on when the first thing happens.
SITUATIONS: dict[str, Callable[[World], object]] = {
    "starts": lambda world: _each(world, lambda: world.submit(0.2), 0.09),
    "works": lambda world: _each(world, lambda: world.submit(3.0), 1.0),
    "has nothing to do": lambda world: _each(world, lambda: world.submit(0.2), 2.0),
    "leaves": lambda world: _each(world, lambda: world.submit(0.0), 1.0, world.until_it_leaves()),
    "refuses": lambda world: _each(world, world.drain, lambda: world.submit(0.2), 2.0, world.check),
    "has left": lambda world: _each(world, lambda: world.submit(0.0), 1.0, world.until_it_leaves(), 2.0),
}

#: Between two events: less and more than each step of the model takes.
GAPS_S = (0.0, 0.002, 0.006, 0.011, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Order:
    """What happens: each event, and how long after the one before."""

    situation: str
    events: tuple[str, ...]
    gaps_s: tuple[float, ...]

    def __str__(self) -> str:
        """As `parse` reads it."""
        steps = (f"+{gap_s:g} {event}" for gap_s, event in zip(self.gaps_s, self.events, strict=True))
        return "; ".join([self.situation, *steps])

    @classmethod
    def parse(cls, text: str) -> Order:
        situation, *steps = text.split("; ")
        gaps, events = zip(*(step.split(" ", 1) for step in steps), strict=True)
        if situation not in SITUATIONS or not EVENTS.keys() >= set(events):
            raise ValueError(f"no such situation, or event, as in {text!r}")
        return cls(situation, events, tuple(map(float, gaps)))


def pairs(situation: str) -> Iterator[Order]:
    """Every two events, at once or after some time."""
    chance = random.Random(situation)
    for events in itertools.product(EVENTS, repeat=2):
        yield Order(situation, events, (0.0, chance.choice(GAPS_S)))


def all_pairs() -> Iterator[Order]:
    """Every two events in every situation, at every distance from its begin and from each other."""
    for gaps_s in itertools.product(GAPS_S, repeat=2):
        for situation in SITUATIONS:
            for events in itertools.product(EVENTS, repeat=2):
                yield Order(situation, events, gaps_s)


def any_walk(chance: random.Random) -> Order:
    """Two to eight events; half of the distances are none of those above."""
    events = tuple(chance.choices(list(EVENTS), k=chance.randint(2, 8)))
    gaps = (chance.choice((chance.choice(GAPS_S), round(3 ** chance.uniform(-6, 1), 4))) for _ in events)
    return Order(chance.choice(list(SITUATIONS)), events, tuple(gaps))


def walks(count: int) -> Iterator[Order]:
    """So many orders of three to six events."""
    chance = random.Random("walks")
    situations, names = list(SITUATIONS), list(EVENTS)
    for _ in range(count):
        events = tuple(chance.choices(names, k=chance.choice((3, 3, 4, 4, 5, 6))))
        yield Order(chance.choice(situations), events, tuple(chance.choices(GAPS_S, k=len(events))))


def explore(make: MakeWorld, order: Order) -> float:
    """Let it happen, and see that it ends well; return how long that took."""
    world = make()
    try:
        SITUATIONS[order.situation](world)
        for name, gap_s in zip(order.events, order.gaps_s, strict=True):
            world.advance(gap_s)
            EVENTS[name](world)
        return judge(world, {order.situation, *order.events}, str(order))
    finally:
        world.close()


def judge(world: World, happened: set[str], story: str = "") -> float:
    took_s = world.settle()
    outcomes = set(world.check(story).values())
    allowed = {"done"} if happened <= HARMLESS | (SITUATIONS.keys() - {"refuses"}) else NAMED
    allowed = allowed | {code for event, code in REFUSALS.items() if event in happened}
    assert outcomes <= allowed, "\n".join([f"{outcomes - allowed} after", story, *world.log])
    late_s = took_s - sum(world.asked.values())
    limit_s = LATE_WITHOUT_NEWS_S if happened & NEWS else LATE_S
    assert late_s < limit_s, "\n".join([f"all ended {late_s:.1f} s too late after", story, *world.log])
    return late_s
