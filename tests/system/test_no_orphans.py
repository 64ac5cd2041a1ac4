"""However a user endpoint ends, all that it caused is gone within two seconds: `./dev trials`, reduced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.relay import Relay

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))

import trials

pytestmark = pytest.mark.timeout(180)

#: way -> trials; each of the idle ones takes two heartbeats
TRIALS = {way: 1 if way == "idle" else 4 for way in trials.WAYS}


@contextmanager
def rig(relay: Relay, *, cgroups: bool) -> Iterator[trials.Rig]:
    made = trials.Rig(cgroups=cgroups, relay=relay)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("way", TRIALS)
def test_nothing_is_left(relay: Relay, way: str) -> None:
    with rig(relay, cgroups=True) as made:
        row = trials.run(made, way, TRIALS[way])
    assert row.good == TRIALS[way], row


@pytest.mark.parametrize("way", [way for way in TRIALS if way != "idle"])
def test_nothing_is_left_without_cgroups(relay: Relay, way: str) -> None:
    with rig(relay, cgroups=False) as made:
        row = trials.run(made, way, 2)
    assert row.good == 2, row
