"""When results are asked for over HTTP, and that the asking ends when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mep.sdk.asking import Asking
from mep.sdk.futures import ComputeFuture
from mep.sdk.pending import Pending
from mep.serialize import Serializer


class Relay:
    """Answers a question by what it holds."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.asked: list[list[str]] = []

    def get_task_documents(self, task_ids: list[str]) -> dict[str, Any]:
        self.asked.append(task_ids)
        return {task: self.documents[task] for task in task_ids if task in self.documents}


async def _nothing() -> None:
    return None


def _asking(relay: Relay, pending: Pending, *, streaming: bool) -> Asking:
    client: Any = relay
    return Asking(client, pending, Serializer, lambda: streaming, _nothing)


@pytest.mark.parametrize("turns", range(5))
async def test_it_ends_even_if_it_is_woken_in_the_same_moment(turns: int) -> None:
    pending = Pending()
    pending.add({"t": ComputeFuture("t")})
    asking = _asking(Relay(), pending, streaming=True)
    task = asyncio.create_task(asking.run())
    for _ in range(3):
        await asyncio.sleep(0)
    asking.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=1.0)
    assert done == {task}


async def test_while_the_stream_is_away_results_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mep.sdk.asking._AWAY_FIRST_S", 0.02)
    relay, pending, future = Relay(), Pending(), ComputeFuture("t")
    relay.documents["t"] = {"task_id": "t", "status": "success", "result": "11\n7"}
    asking = _asking(relay, pending, streaming=False)
    task = asyncio.create_task(asking.run())
    pending.add({"t": future})
    asking.wake()
    assert await asyncio.wait_for(asyncio.wrap_future(future), 5.0) == 7
    assert relay.asked == [["t"]]
    task.cancel()


async def test_a_stream_that_is_up_and_silent_is_doubted_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mep.sdk.asking._QUIET_FIRST_S", 0.05)
    relay, pending, future = Relay(), Pending(), ComputeFuture("t")
    relay.documents["t"] = {"task_id": "t", "status": "failed", "exception": "lost on the way"}
    asking = _asking(relay, pending, streaming=True)
    task = asyncio.create_task(asking.run())
    pending.add({"t": future})
    asking.wake()
    with pytest.raises(Exception, match="lost on the way"):
        await asyncio.wait_for(asyncio.wrap_future(future), 5.0)
    task.cancel()
