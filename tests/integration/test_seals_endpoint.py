"""A user endpoint with a key: it runs what the relay sealed, once, and nothing that it says passes in the open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.relay.brokeraddress import BrokerAddress
from mep.wire import command, envelope, seal, sealed
from mep.wire.privsep import Refresh
from mep.wire.seal import Sealer, derive
from mep.wire.sealed import SealedTask
from support.broker import broker, broker_node
from support.uep import Running, Site, payload_fd, site, task_buffer, user_endpoint
from support.wait import until

__all__ = ["broker", "broker_node"]

THREADS = "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n"
KEY, OTHER = derive(Secret("relay"), 1), derive(Secret("relay"), 2)

Start = Callable[[], AbstractContextManager[Running]]


@pytest.fixture
def place(broker: BrokerAddress) -> Iterator[Site]:
    with site(broker.amqp.reveal(), seal_key=KEY) as made:
        yield made


@pytest.fixture
def start(place: Site, tmp_path: Path) -> Start:
    return lambda: user_endpoint(place, tmp_path, THREADS)


def write_line(path: str) -> int:
    """Leave a trace of having run; return how many there are now."""
    with open(path, "a") as file:
        file.write("ran\n")
    with open(path) as file:
        return len(file.readlines())


def write_line_later(path: str, go: str) -> None:
    """Leave a trace once the other file is there."""
    import os
    import time

    while not os.path.exists(go):
        time.sleep(0.01)
    with open(path, "a") as file:
        file.write("ran\n")


def test_what_it_says_is_sealed_and_what_it_is_told(place: Site, start: Start) -> None:
    with start():
        assert place.run(lambda a, b: a + b, 2, 3) == 5
        place.pump(lambda: place.reports, "a report")
    assert place.refused == []


def test_what_the_relay_did_not_seal_is_not_run(place: Site, start: Start, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    buffer = task_buffer(write_line, str(trace))

    def task() -> Any:
        return sealed.encode(SealedTask(new_id(), new_id(), buffer, {}, []))

    task_id = new_id()
    plain = envelope.encode(envelope.Task(task_id=task_id, task_buffer=buffer))
    headers = {envelope.HEADER_TASK: task_id, envelope.HEADER_FUNCTION: new_id()}
    good = Sealer(KEY, seal.TASK, place.uep_id)
    forged = [
        Sealer(OTHER, seal.TASK, place.uep_id).seal(task()),
        Sealer(KEY, seal.RESULT, place.uep_id).seal(task()),
        Sealer(KEY, seal.TASK, new_id()).seal(task()),
        good.seal(task())[:-1],
        good.seal(task()) + b"\0",
        good.seal(b"\xc1 no task"),
        seal.VERSION,
        b"",
    ]
    with start() as running:
        place.publish(plain, headers)
        for body in forged:
            place.publish(body, {})
        assert place.run(write_line, str(trace)) == 1
        assert set(place.results) & {task_id} == set()
        assert running.log().count("was thrown away") == 1, "one line, however many"
        assert "it is not sealed" in running.log()


def test_a_recorded_task_is_not_run_again_by_any_life_whatever_else_was_forgotten(
    place: Site, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mep.endpoint.ledger._REMEMBERED_IDS", 0)
    monkeypatch.setattr("mep.endpoint.journal._COMPACT_ABOVE_BYTES", 0)
    trace, task_id = tmp_path / "trace", new_id()
    recorded = place.sealed_task(task_id, task_buffer(write_line, str(trace)))
    for _ in range(2):
        with start() as running:
            place.publish(recorded, {})
            place.result(task_id)

            def noticed(running: Running = running) -> bool:
                place.publish(recorded, {})
                assert place.run(lambda: "after it") == "after it"
                return "has come again" in running.log()

            until(noticed, "it is known by its number alone")
            assert trace.read_text() == "ran\n"
            running.kill()
            running.wait()


def test_a_task_that_is_sent_again_under_another_number_runs_once_and_so_do_both_recordings(
    place: Site, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mep.endpoint.ledger._REMEMBERED_IDS", 0)
    trace, go, task_id = tmp_path / "trace", tmp_path / "go", new_id()
    bodies = [place.sealed_task(task_id, task_buffer(write_line_later, str(trace), str(go))) for _ in range(2)]
    with start() as running:
        for body in bodies:
            place.publish(body, {})
        assert place.run(lambda: "both were there while it ran") is not None
        go.touch()
        place.result(task_id)

        def noticed() -> bool:
            place.publish(bodies[1], {})
            assert place.run(lambda: "after it") == "after it"
            return "has come again" in running.log()

        until(noticed, "it is known by its number alone")
        assert trace.read_text() == "ran\n"


def test_a_refresh_with_another_key_counts_from_then_on(place: Site, start: Start) -> None:
    with start() as running:
        assert place.run(lambda: 1) == 1
        place.seal_key = OTHER
        place._sealers.clear()
        fd, _ = payload_fd(place.creds(), {}, OTHER)
        running.monitor.send(Refresh(), fd)
        task_id = place.submit(lambda: 2)

        def again() -> bool:
            """What came before the refresh was not for it to open."""
            if task_id not in place.results:
                place.publish(place.sealed_task(task_id, task_buffer(lambda: 2)), {})
                place.connection.process_data_events(time_limit=0.1)
            return task_id in place.results

        place.pump(again, "a task under the new key")


def test_the_key_does_not_leave_the_process(place: Site, start: Start, tmp_path: Path) -> None:
    with start() as running:
        assert place.run(lambda: 1) == 1
        key = KEY.reveal()
        assert key not in running.log()
        assert key.encode() not in (tmp_path / "journal").read_bytes()
    assert key not in repr(command.StartArguments(name="x", amqp_creds=place.creds(), seal_key=KEY))
    until(lambda: running.status is not None, "it is gone")
