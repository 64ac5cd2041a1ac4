"""A user endpoint that is killed and cut off at random: each task has one outcome and ran at most once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import broker, broker_node
from support.proxy import Proxy
from support.uep import Running, Site, task_buffer, user_endpoint, value_of

__all__ = ["broker", "broker_node"]

ENGINES = {
    "threads": "engine:\n  type: ThreadPoolEngine\n  max_workers: 3\n",
    "processes": "engine:\n  type: ProcessPoolEngine\n  max_workers: 3\n",
}
_TASKS = 600
_KILLS = 12


def _work(number: int, path: str) -> int:
    import os
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    time.sleep(0.003)
    return number


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give the URL of a proxy before `url`, in a thread of its own, and what cuts its connections."""
    loop = asyncio.new_event_loop()
    proxy = Proxy.before(url)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(5)
        yield proxy.url(url), lambda: loop.call_soon_threadsafe(proxy.cut)
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result(5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("engine", ENGINES)
def test_kills_and_cuts_lose_nothing_and_run_nothing_twice(
    broker: BrokerAddress, tmp_path: Path, engine: str
) -> None:
    chance = random.Random(20)
    ran = tmp_path / "ran"
    with proxied(broker.amqp.reveal()) as (url, cut), contextlib.closing(Site(broker.amqp.reveal())) as place:
        place.endpoint_url = url
        ids = {place.submit_buffer(task_buffer(_work, n, str(ran))): n for n in range(_TASKS)}
        for _ in range(_KILLS):
            with user_endpoint(place, tmp_path, ENGINES[engine]) as running:
                _live_a_little(place, running, cut, chance)
                running.kill(signal.SIGKILL)
                running.wait()
        with user_endpoint(place, tmp_path, ENGINES[engine]):
            place.pump(lambda: set(ids) <= set(place.results), "every task's outcome", timeout_s=60)
    lost = 0
    times = Counter(int(line) for line in ran.read_text().split())
    for task_id, number in ids.items():
        results = place.results[task_id]
        failed = [r for r in results if r.error_details is not None]
        lost += bool(failed)
        assert all(r.error_details and r.error_details.code == "TASK_LOST" for r in failed), failed[0].data
        assert len(failed) in (0, len(results)), "one task, two outcomes"
        assert failed or {value_of(r) for r in results} == {number}
        assert times[number] <= 1, f"task {number} ran {times[number]} times"
        assert failed or times[number] == 1
    print(f"{engine}: {_TASKS} tasks, {_KILLS} kills, {lost} lost while they ran")
    assert lost <= _KILLS * 3, "more were given up than can have been running"


def _live_a_little(place: Site, running: Running, cut: Callable[[], Any], chance: random.Random) -> None:
    end = time.monotonic() + chance.uniform(0.0, 0.4)
    while time.monotonic() < end:
        place.connection.process_data_events(time_limit=0.02)
        if chance.random() < 0.1:
            cut()
