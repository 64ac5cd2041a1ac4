"""Nothing accepted is lost when the relay or its broker is killed, and nothing is delivered twice."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import httpx
import psutil
import pytest

from mep.base.ids import new_id
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.store import tasks as stored_tasks
from mep.relay.store.engine import default_url, open_writer
from mep.relay.store.tasks import Parked, park
from mep.wire import envelope
from mep.wire.envelope import HEADER_FUNCTION, HEADER_RESOURCES, HEADER_TASK, Result
from support.fake_endpoint import FakeEndpoint, FakeUep, Http, Reader, submission
from support.fleet import MakeEndpoint, alice, broker_frozen, make_quick_relay, people, site, stream, task_ids
from support.relay import Relay
from support.rigs import make_open_dir
from support.wait import until

__all__ = ["alice", "people", "site"]


@pytest.fixture
def quick_relay(broker_node: BrokerAddress) -> Iterator[Relay]:
    """A relay of this test's own: it will be killed."""
    yield from make_quick_relay(broker_node)


def restart(relay: Relay) -> None:
    relay.kill()
    relay.start()


def test_results_sent_while_the_relay_was_dead_arrive(quick_relay: Relay, site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function(), *["1\na1\nb"] * 50)
    with endpoint.start_uep() as uep:
        taken = [uep.take() for _ in range(50)]
        quick_relay.kill()
        for task in taken:
            uep.answer(task.task_id)
        quick_relay.start()
        with closing(stream(alice, submitted)) as reader:
            got = Counter(r.task_id for _ in range(50) if (r := reader.result()) is not None)
            assert reader.result(wait_s=0.3) is None
    assert got == Counter(task_ids(submitted))
    assert {alice.task(i)["status"] for i in task_ids(submitted)} == {"success"}


def test_a_user_endpoint_outlives_the_relay_and_is_not_started_twice(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    first = alice.submit(endpoint.id, alice.function())
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
        until(lambda: alice.task(task_ids(first)[0])["status"] == "success", "done")
        restart(quick_relay)
        second = alice.submit(endpoint.id, alice.function())
        uep.answer(uep.take().task_id)
        with closing(stream(alice, second)) as reader:
            assert reader.result() is not None
        assert endpoint.command(wait_s=0.3) is None


def test_a_start_that_a_dead_relay_had_begun_is_begun_again(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    assert endpoint.command() is not None
    restart(quick_relay)
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
    with closing(stream(alice, submitted)) as reader:
        assert reader.result() is not None


def test_an_answer_with_a_key_is_remembered_over_a_restart(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint, body, key = site(), submission(alice.function()), {"Idempotency-Key": new_id()}
    path = f"/v3/endpoints/{endpoint.id}/submit"
    first = alice.ok("POST", path, json=body, headers=key)
    restart(quick_relay)
    assert alice.ok("POST", path, json=body, headers=key) == first


def test_tasks_taken_while_the_broker_hung_outlive_the_relay(
    quick_relay: Relay, site: MakeEndpoint, alice: Http, broker_node: BrokerAddress
) -> None:
    """The relay answers once they are parked on disk; another process hands them over."""
    endpoint, function_id = site(), alice.function()
    first = alice.submit(endpoint.id, function_id)
    with endpoint.start_uep() as uep:
        assert uep.take().task_id == task_ids(first)[0]
        with broker_frozen(broker_node):
            late = alice.submit(endpoint.id, function_id, "1\na1\nb", "1\nc1\nd")
            quick_relay.kill()
        quick_relay.start()
        assert [uep.take().task_id for _ in range(2)] == task_ids(late)


def test_tasks_that_wait_for_their_submit_to_be_repeated_are_not_lost(
    quick_relay: Relay, site: MakeEndpoint, alice: Http, broker_node: BrokerAddress
) -> None:
    """Stored and not published when the relay died: an idle user endpoint cannot have lost them."""
    endpoint, function_id = site(), alice.function()
    first = alice.submit(endpoint.id, function_id)
    path, body, key = f"/v3/endpoints/{endpoint.id}/submit", submission(function_id), {"Idempotency-Key": new_id()}
    with endpoint.start_uep() as uep:
        uep.answer(uep.take().task_id)
        with broker_frozen(broker_node):
            with pytest.raises(httpx.TimeoutException):
                alice.client.post(path, json=body, headers=key, timeout=1.0)
            quick_relay.kill()
        quick_relay.start()
        for _ in range(8):
            assert uep.next_message(f"{uep.id}.tasks", wait_s=0.3, exclusive=True) is None
            uep.report(heartbeat_period=0.3, outstanding_tasks=0, pending_tasks=0)
        late = alice.ok("POST", path, json=body, headers=key)
        assert alice.task(task_ids(late)[0])["status"] not in ("success", "failed")
        task = uep.take()
        assert [task.task_id] == task_ids(late)
        uep.answer(task.task_id)
        with closing(stream(alice, late)) as reader:
            results = [reader.result()]
    assert [(r.task_id, r.error_details) for r in results if r is not None] == [(task.task_id, None)]
    assert task_ids(first) != task_ids(late)


def test_a_repeat_does_not_run_what_has_failed_meanwhile(
    quick_relay: Relay, site: MakeEndpoint, alice: Http, broker_node: BrokerAddress
) -> None:
    endpoint, function_id = site(), alice.function()
    path, body, key = f"/v3/endpoints/{endpoint.id}/submit", submission(function_id), {"Idempotency-Key": new_id()}
    first = alice.submit(endpoint.id, function_id)
    uep = endpoint.start_uep()
    uep.answer(uep.take().task_id)
    uep.stop()
    until(lambda: alice.task(task_ids(first)[0])["status"] == "success", "the first task is done")
    with broker_frozen(broker_node):
        with pytest.raises(httpx.TimeoutException):
            alice.client.post(path, json=body, headers=key, timeout=1.0)
        quick_relay.kill()
    quick_relay.start()
    assert endpoint.command() is not None
    endpoint.notice(uep.id, error="no", error_code="SPAWN_FAILED", heartbeat_period=30)
    until(lambda: "failing 1 tasks" in quick_relay.tail(), "its tasks have failed")
    late = alice.ok("POST", path, json=body, headers=key)
    with closing(stream(alice, late)) as reader:
        result = reader.result()
    assert result is not None
    assert result.error_details is not None
    with FakeUep(uep.creds) as fresh:
        assert fresh.next_message(f"{uep.id}.tasks", wait_s=0.5, exclusive=True) is None


def test_what_one_relay_parked_the_next_hands_over(quick_relay: Relay, site: MakeEndpoint, alice: Http) -> None:
    endpoint, function_id = site(), alice.function()
    submitted = alice.submit(endpoint.id, function_id)
    (task_id,) = task_ids(submitted)
    with endpoint.start_uep() as uep:
        task = envelope.encode(uep.take())
        headers = json.dumps({HEADER_TASK: task_id, HEADER_FUNCTION: function_id, HEADER_RESOURCES: '{"n": 1}'})
        result = envelope.encode(Result(task_id=task_id, data="00\nparked\n"))
        owner = alice.ok("GET", "/v2/get_amqp_result_connection_url")["queue_prefix"].split(".")[1]
        quick_relay.kill()
        engine = open_writer(default_url(quick_relay.data_dir))
        parked = [
            Parked(kind="task", target=uep.id, headers=headers, body=task),
            Parked(kind="result", target=f"{owner}/{submitted['task_group_id']}", headers="{}", body=result),
        ]
        with engine.begin() as connection:
            park(connection, parked)
        quick_relay.start()
        assert uep.take().task_id == task_id
        assert json.loads(uep.properties.headers[HEADER_RESOURCES]) == {"n": 1}
        with closing(stream(alice, submitted)) as reader:
            found = reader.result()
        assert found is not None
        assert found.data == "00\nparked\n"

    def left() -> bool:
        with engine.begin() as connection:
            return bool(stored_tasks.parked(connection))

    until(lambda: not left(), "the outbox is empty")
    engine.dispose()


class Answering(threading.Thread):
    """A user endpoint that answers whatever comes, until told to stop."""

    def __init__(self, uep: FakeUep) -> None:
        super().__init__(daemon=True)
        self.uep, self.enough = uep, threading.Event()
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        channel = self.uep.channel
        queue = self.uep.creds["task_queue_info"]["queue"]
        for method, properties, _ in channel.consume(queue, exclusive=True, inactivity_timeout=0.05):
            if method is not None:
                task_id = properties.headers["task_uuid"]
                self.seen[task_id] += 1
                self.uep.answer(task_id)
                channel.basic_ack(method.delivery_tag)
            elif self.enough.is_set():
                return


def submit_patiently(relay: Relay, token: str, path: str, body: dict[str, object]) -> list[str]:
    """Submit as a client that repeats what was not answered, with a key; return the task ids."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": new_id()}
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = httpx.post(f"{relay.url}{path}", json=body, headers=headers, timeout=10)
            if answer.status_code == 200:
                return task_ids(answer.json())
            assert answer.status_code == 503, answer.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)  # the relay is being started again


@pytest.mark.slow
def test_kills_under_load_lose_nothing_and_deliver_once(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint, group = site(), new_id()
    function_id = alice.function()
    path = f"/v3/endpoints/{endpoint.id}/submit"
    first = alice.submit(endpoint.id, function_id, task_group_id=group)
    uep = endpoint.start_uep()
    answering = Answering(uep)
    answering.start()
    accepted: list[str] = list(task_ids(first))
    token = quick_relay.token("alice@example.org")
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            body = submission(function_id, *["1\na1\nb"] * 20, task_group_id=group)
            accepted.extend(submit_patiently(quick_relay, token, path, body))

    loaders = [threading.Thread(target=load) for _ in range(3)]
    for loader in loaders:
        loader.start()
    for _ in range(4):
        time.sleep(0.5)  # some load between kills
        restart(quick_relay)
    done.set()
    for loader in loaders:
        loader.join()
    missing = set(accepted)
    delivered: Counter[str] = Counter()
    with closing(Reader(alice, group)) as reader:
        while missing and (result := reader.result()) is not None:
            assert result.error_details is None, result.data
            delivered[result.task_id] += 1
            missing.discard(result.task_id)
    answering.enough.set()
    answering.join()
    uep.close()
    assert not missing, f"{len(missing)} of {len(accepted)} never came"
    found = alice.ok("POST", "/v2/batch_status", json={"task_ids": accepted})["results"]
    assert {d["status"] for d in found.values()} == {"success"}


# ---- with the broker as the relay's child ----


@pytest.fixture
def whole() -> Iterator[Relay]:
    """A relay with a private broker."""
    folder = make_open_dir()
    running = Relay(folder / "relay").start()
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def broker_of(relay: Relay) -> psutil.Process:
    assert relay.program is not None
    for child in psutil.Process(relay.program.pid).children():
        if "beam" in child.name():
            return child
    raise AssertionError("the relay has no broker")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_broker_and_relay_killed_lose_nothing(whole: Relay) -> None:
    person = Http(whole.url, whole.token("alice@example.org"))
    endpoint = FakeEndpoint(person).register().connect()
    function_id = person.function()
    submitted = person.submit(endpoint.id, function_id, *["1\na1\nb"] * 20)

    # the broker alone: the relay says so, keeps what is submitted meanwhile, and comes back by itself
    broker_of(whole).kill()
    until(lambda: httpx.get(f"{whole.url}/healthz").status_code == 503, "healthz tells")
    assert "broker" in httpx.get(f"{whole.url}/healthz").json()["reason"]
    began = time.monotonic()
    meanwhile = person.submit(endpoint.id, function_id)
    assert time.monotonic() - began < 55, "an answer never takes longer than a client waits"
    until(lambda: httpx.get(f"{whole.url}/healthz").status_code == 200, "the broker is back", timeout_s=60)

    # both at once
    whole.kill()
    whole.start()
    old = endpoint.answer
    endpoint = FakeEndpoint(person, endpoint.id).register().connect()
    assert endpoint.answer == old, "the same credentials as before"
    wanted = set(task_ids(submitted)) | set(task_ids(meanwhile))
    with endpoint.start_uep() as uep:
        taken = [uep.take().task_id for _ in range(len(wanted))]
        assert set(taken) == wanted
        assert uep.next_message(f"{uep.id}.tasks", wait_s=0.3, exclusive=True) is None
        for task_id in taken:
            uep.answer(task_id)
    with closing(stream(person, submitted)) as reader:
        got = {r.task_id for _ in task_ids(submitted) if (r := reader.result()) is not None}
    assert got == set(task_ids(submitted))
    endpoint.close()
    person.close()


def test_a_second_relay_on_the_same_data_directory_is_refused(quick_relay: Relay) -> None:
    second = Relay(quick_relay.data_dir, quick_relay.broker)
    with pytest.raises(RuntimeError, match="ALREADY_RUNNING"):
        second.start()
