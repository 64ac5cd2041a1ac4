"""A relay or a broker that says anything: each future ends, by a value or a named error; the next one works."""

from __future__ import annotations

import base64
import pickle
import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mep import Client, ComputeFuture, Executor
from mep.base.errors import MepError
from mep.base.ids import new_id
from mep.serialize import serialize_result
from mep.wire.envelope import ErrorDetails, Result, StatusReport, Task, encode
from support.fuzz import mutated
from support.sdkrig import SOON_S, MakeExecutor, accepted, double
from support.smallrelay import Answer, SmallRelay

ANY: list[Any] = [None, True, 3, "text", [], {}, [[]], {"tasks": None}, {"results": 3}, {"ha_warning": []}]
NO_TASKS: list[Any] = [
    *ANY,
    *({"tasks": []}, {"tasks": {}}, {"tasks": {"x": 3}}, {"tasks": {"x": [3]}}, {"tasks": {"x": [["y"]]}}),
]
NO_FUNCTION: list[Any] = [*ANY, {"function_uuid": None}, {"function_uuid": ["x"]}, {"function_uuid": {}}]
NO_URL: list[Any] = [
    *([], {}, {"connection_url": 3}, {"connection_url": "http://x"}, {"connection_url": "amqp://["}),
    *({"connection_url": "amqp://x:99999999"}, {"connection_url": "amqp://127.0.0.1:1", "seal_key": "x"}),
    {"connection_url": "amqp://127.0.0.1:1", "queue_prefix": {"a": 1}},
]
NO_RESULTS: list[Any] = [
    *ANY,
    *({"results": {}}, {"results": []}, {"results": None}),
    *({"TASK": []}, {"TASK": {"status": ["success"]}}, {"TASK": {"status": "running", "details": 3}}),
]


class HostileRelay(SmallRelay):
    """Gives `planned` on routes that end in `where`: once each, and the last one for ever if `stubborn`.

    `slow`: it knows of no result when it is asked for the first time.
    """

    def __init__(self, where: str, planned: list[Any], *, stubborn: bool = False, slow: bool = False) -> None:
        super().__init__("")
        self.where, self.planned, self.stubborn, self.slow = where, list(planned), stubborn, slow

    def handle(self, method: str, path: str, query: dict[str, Any], body: Any, headers: dict[str, str]) -> Answer:
        real = super().handle(method, path, query, body, headers)
        if self.slow and path.endswith("batch_status"):
            self.slow = False
            return 200, {"results": {}}, {}
        if not path.endswith(self.where) or not self.planned:
            return real
        answer = self.planned[0] if self.stubborn and len(self.planned) == 1 else self.planned.pop(0)
        if isinstance(answer, dict) and "TASK" in answer:
            answer = {"results": dict.fromkeys(body["task_ids"], answer["TASK"])}
        return 200, answer, {}


class Rigs:
    """Relays with an executor each, to be asked side by side."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def submit(self, relay: HostileRelay) -> ComputeFuture:
        self._stack.enter_context(relay)
        client = Client(relay_url=relay.url, token="t", retry_s=1.0)
        self._stack.callback(client.close)
        executor = Executor(endpoint_id=new_id(), client=client)
        self._stack.callback(executor.shutdown, cancel_futures=True)
        return executor.submit(double, 4)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def rigs() -> Iterator[Rigs]:
    made = Rigs()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("where", "answers"), [("submit", NO_TASKS), ("functions", NO_FUNCTION)], ids=["submit", "functions"]
)
def test_an_answer_that_accepts_nothing_is_an_error_with_a_name(
    rigs: Rigs, where: str, answers: list[Any]
) -> None:
    futures = [(rigs.submit(HostileRelay(where, [answer], stubborn=True)), answer) for answer in answers]
    for future, answer in futures:
        error = future.exception(SOON_S)
        assert isinstance(error, MepError), f"{answer!r}: {error!r}"
        assert str(error)


def test_ids_that_are_given_twice_leave_no_future_open(rigs: Rigs) -> None:
    relay = HostileRelay("submit", [])
    rigs.submit(relay).exception(SOON_S)
    client = Client(relay_url=relay.url, token="t", retry_s=1.0)
    with Executor(endpoint_id=new_id(), client=client, batch_size=10) as executor:
        function = executor.register_function(double)
        relay.planned, relay.stubborn = [{"tasks": {function: ["x"] * 10}}], True
        futures = [executor.submit_to_registered_function(function, (n,)) for n in range(10)]
        executor.client  # noqa: B018 - the batch is on its way
        errors = [future.exception(SOON_S) for future in futures[1:]]
        executor.shutdown(wait=False, cancel_futures=True)
    assert all(isinstance(error, MepError) for error in errors)
    client.close()


def test_without_an_address_of_the_stream_results_come_over_http(rigs: Rigs) -> None:
    futures = [
        (rigs.submit(HostileRelay("connection_url", [answer], stubborn=True, slow=True)), answer)
        for answer in NO_URL
    ]
    assert [(future.result(SOON_S), answer) for future, answer in futures] == [(8, answer) for answer in NO_URL]


def test_a_wrong_answer_about_results_is_asked_for_again(rigs: Rigs) -> None:
    futures = [(rigs.submit(HostileRelay("batch_status", [answer])), answer) for answer in NO_RESULTS]
    for future, answer in futures:
        error = future.exception(2 * SOON_S)
        assert error is None or isinstance(error, MepError), f"{answer!r}: {error!r}"


class Exits:
    """Ends whoever reads it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return (exec, (f"raise {self.name}('of the pickle')",))


def pickled(value: object) -> str:
    return "01\n" + base64.b64encode(pickle.dumps(value)).decode() + "\n"


DATA = {
    "exit": pickled(Exits("SystemExit")),
    "interrupt": pickled(Exits("KeyboardInterrupt")),
    "generator": pickled(Exits("GeneratorExit")),
    "memory": pickled(Exits("MemoryError")),
    "recursion": pickled(Exits("RecursionError")),
    "no-strategy": "zz\nx",
    "no-base64": "01\n\0\0\0",
    "half": pickled([1] * 100)[:40],
    "deep": "11\n" + "[" * 100_000,
    "number": "11\n" + "9" * 5000,
}


@pytest.mark.parametrize("kind", list(DATA))
def test_a_result_that_cannot_be_read_ends_its_own_future_only(
    executor: MakeExecutor, small: SmallRelay, kind: str
) -> None:
    small.faults.hold_results = True
    one = executor()
    future = one.submit(double, 1)
    task = accepted(future)
    small.publish(str(future.task_group_id), encode(Result(task_id=task, data=DATA[kind])))
    error = future.exception(SOON_S)
    assert isinstance(error, MepError), repr(error)
    small.faults.hold_results = False
    assert one.submit(double, 3).result(SOON_S) == 6


def test_messages_that_are_no_results_disturb_no_future(executor: MakeExecutor, small: SmallRelay) -> None:
    rng = random.Random("messages")
    small.faults.hold_results = True
    future = executor().submit(double, 5)
    task, group = accepted(future), str(future.task_group_id)
    other = new_id()
    seeds = [
        encode(Result(task_id=other, data="11\n1", details={"python_version": "9.9", "endpoint_id": "e"})),
        encode(Result(task_id=other, data="x", error_details=ErrorDetails(code="C", user_message="m"))),
        encode(StatusReport(endpoint_id=other)),
        encode(Task(task_id=other, task_buffer="x")),
    ]
    for number in range(300):
        headers = {"high_assurance": True} if number % 50 == 0 else None
        small.publish(group, mutated(rng.choice(seeds), rng), headers)
    small.publish(group, encode(Result(task_id=task, data=serialize_result(10))))
    assert future.result(SOON_S) == 10
