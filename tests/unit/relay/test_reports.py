"""Status reports from anybody about anything: the fleet stands, and only the entitled are believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.broker.channel import QueueFacts
from mep.relay.fleet import STOPPED, UP, Fleet, Uep
from mep.relay.liveness import Liveness
from mep.relay.opening import Opening
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.starts import Starts
from mep.relay.store import Store
from mep.relay.store.endpoints import Endpoint
from mep.relay.store.engine import default_url
from mep.relay.store.ueps import UepRecord
from mep.wire.envelope import StatusReport

VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just({}) | st.just([1])
)
STATES = st.dictionaries(
    st.sampled_from(
        ["active", "heartbeat_period", "error", "error_code", "request_id", "ended", "info", "outstanding_tasks"]
    ),
    VALUES,
)


class Silent:
    """Starts and endings that only count: what the fleet makes of reports is what is tested."""

    def __init__(self) -> None:
        self.failed_with: list[str] = []

    def failed(self, uep: Uep, code: str, text: str) -> None:
        self.failed_with.append(text)

    def begin(self, uep: Uep, *, request_id: str = "") -> None:
        pass

    def hold(self, uep: Uep) -> None:
        pass


class Scene:
    def __init__(self, store: Store, tmp_path: Path) -> None:
        self.fleet = Fleet(store, Settings(data_dir=tmp_path))
        self.starts = cast(Any, Silent())
        opening = Opening(self.fleet, Seals(Secret("relay")))
        self.liveness = Liveness(self.fleet, self.starts, self.starts, self.starts, opening)
        self.endpoint = Endpoint(id=new_id(), owner_id=new_id(), name="e")
        self.uep = self.fleet.uep(
            UepRecord(id=new_id(), endpoint_id=self.endpoint.id, identity_id=new_id()), self.endpoint
        )

    def hear(self, sender: str, about: str, state: dict[str, Any]) -> None:
        self.liveness.on_report(sender, StatusReport(endpoint_id=about, global_state=state))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    store = Store(default_url(tmp_path))
    made = Scene(store, tmp_path)
    yield made
    await made.fleet.close()
    store.close()


async def test_a_report_of_its_own_makes_it_up_and_a_goodbye_ends_it(scene: Scene) -> None:
    scene.hear(scene.uep.id, scene.uep.id, {"active": True, "heartbeat_period": 5})
    assert (scene.uep.state, scene.uep.period_s) == (UP, 5.0)
    scene.hear(scene.uep.id, scene.uep.id, {"active": False})
    assert scene.uep.state == STOPPED


async def test_of_too_many_reports_the_last_one_counts_in_the_end(scene: Scene) -> None:
    """It may be the one that says that the user endpoint is gone; nothing else would."""
    for _ in range(60):
        scene.hear(scene.uep.id, scene.uep.id, {"active": True})
    scene.hear(scene.endpoint.id, scene.uep.id, {"active": False})
    assert scene.uep.state == UP, "there were too many"
    async with asyncio.timeout(10):
        while scene.uep.state != STOPPED:
            await asyncio.sleep(0.01)


async def test_a_start_command_without_effect_is_said_again_although_a_task_ended_meanwhile(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before may have answered and died while its signs of life were on their way."""
    monkeypatch.setattr("mep.relay.starts._SAY_AGAIN_S", 0.05)
    starts = Starts(scene.fleet, *[cast(Any, None)] * 5)
    sent: list[str] = []

    async def send(uep: Uep, request_id: str) -> None:
        uep.requests.append(request_id)
        sent.append(request_id)

    monkeypatch.setattr(starts, "_command", send)
    scene.uep.core.online = scene.uep.core.uses_commands = True
    starts.begin(scene.uep)
    scene.uep.tries = 0  # as a task's end leaves it
    async with asyncio.timeout(10):
        while len(sent) < 2:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert len(sent) == len(set(sent)) == 2, "once, by a number of its own"


async def test_an_absurd_period_is_not_believed(scene: Scene) -> None:
    for period in (1e300, float("inf"), -5, "soon", True, 10**400):
        scene.hear(scene.uep.id, scene.uep.id, {"active": True, "heartbeat_period": period})
        assert scene.uep.period_s == 30.0


async def test_strangers_are_not_believed(scene: Scene) -> None:
    another = scene.fleet.core(Endpoint(id=new_id(), owner_id=new_id(), name="another")).id
    for sender in (new_id(), "x", another):
        scene.hear(sender, scene.uep.id, {"active": True})
        scene.hear(sender, scene.uep.id, {"error": "no"})
        scene.hear(sender, scene.endpoint.id, {"heartbeat_period": 30})
    await asyncio.sleep(0)
    assert scene.uep.state == STOPPED
    assert not scene.uep.core.online
    assert scene.starts.failed_with == []


async def test_a_relay_that_starts_hears_the_silence_of_who_was_up(scene: Scene) -> None:
    async def nobody(_uep_id: str) -> QueueFacts:
        return QueueFacts(messages=0, consumers=0)

    scene.starts.queue_facts = nobody
    scene.fleet.settings = replace(scene.fleet.settings, missed_heartbeats=0)
    scene.uep.state, scene.uep.last_seen = UP, time.monotonic()
    scene.liveness.resume()
    async with asyncio.timeout(10):
        while scene.uep.state == UP:
            await asyncio.sleep(0.05)


async def test_a_long_text_is_cut_before_every_task_gets_it(scene: Scene) -> None:
    scene.hear(scene.endpoint.id, scene.uep.id, {"error": "x" * 1_000_000})
    assert len(scene.starts.failed_with[0]) == 16_384


async def test_a_flood_is_cut_off_and_comes_back_later(scene: Scene) -> None:
    for _ in range(200):
        scene.hear(scene.endpoint.id, scene.uep.id, {"error": "x"})
    assert len(scene.starts.failed_with) == 50


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.booleans(), STATES), max_size=8))
async def test_no_report_brings_the_fleet_down(
    scene: Scene, said: list[tuple[bool, bool, dict[str, Any]]]
) -> None:
    for from_core, about_core, state in said:
        sender = scene.endpoint.id if from_core else scene.uep.id
        about = scene.endpoint.id if about_core else scene.uep.id
        scene.hear(sender, about, state)
    assert scene.uep.state in ("stopped", "waiting", "starting", "up")
