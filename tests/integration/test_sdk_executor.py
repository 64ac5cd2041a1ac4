"""The executor on a real broker, against a relay that can be told to misbehave."""

from __future__ import annotations

import time
import warnings

import pytest

from mep import (
    ComputeAPIError,
    DeserializationError,
    ShellFunction,
    TaskExecutionFailed,
)
from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.sdk import asking
from mep.serialize import AllCodeStrategies, JSONData, Serializer
from mep.wire.envelope import Result, encode
from support.sdkrig import SOON_S, MakeExecutor, accepted, double, fail_with
from support.smallrelay import SmallRelay, codes_of
from support.wait import until


def test_results_come_and_functions_are_registered_once(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor()
    assert ex.submit(double, 21).result(SOON_S) == 42
    assert list(ex.map(double, range(300), timeout=SOON_S)) == [2 * n for n in range(300)]
    assert small.count("/v3/functions") == 1
    registered = next(body for _, path, body in small.requests if path == "/v3/functions")
    assert (registered["function_name"], registered["description"]) == ("double", "Twice as much.")


def test_what_is_submitted_while_a_request_is_under_way_goes_together(
    executor: MakeExecutor, small: SmallRelay
) -> None:
    small.faults.submit_delay_s = 0.1
    ex = executor(batch_size=50)
    futures = [ex.submit(double, n) for n in range(101)]
    assert [f.result(SOON_S) for f in futures] == [2 * n for n in range(101)]
    assert small.count("/v3/endpoints") <= 5


def test_futures_know_their_task_and_group(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor()
    future = ex.submit(double, 1)
    assert future.result(SOON_S) == 2
    assert future.task_id in small.tasks
    assert future.task_group_id == ex.task_group_id
    assert small.groups[ex.task_group_id] == [future.task_id]


def test_options_may_change_between_submits_and_each_task_has_its_own(
    executor: MakeExecutor, small: SmallRelay
) -> None:
    config = {"account": "a"}
    ex = executor(user_endpoint_config=config, resource_specification={"num_nodes": 1})
    first = ex.submit(double, 1)
    config["account"] = "b"
    ex.resource_specification = None
    ex.result_serializers = [JSONData]
    second = ex.submit(double, 1)
    ex.endpoint_id = other = new_id()
    third = ex.submit(double, 1)
    for future in (first, second, third):
        assert future.result(SOON_S) == 2
    bodies = [(path, body) for _, path, body in small.requests if path.endswith("submit")]
    assert sum(other in path for path, _ in bodies) == 1
    by_account = {body["user_endpoint_config"]["account"]: body for _, body in bodies}
    assert by_account["a"]["resource_specification"] == {"num_nodes": 1}
    assert "resource_specification" not in by_account["b"]
    assert by_account["b"]["result_serializers"] == ["globus_compute_sdk.serialize.concretes.JSONData"]


def test_options_that_are_no_json_are_refused_at_the_submit(executor: MakeExecutor) -> None:
    ex = executor(user_endpoint_config={"when": object()})
    with pytest.raises(InputError, match="user_endpoint_config must be JSON-like"):
        ex.submit(double, 1)


def test_without_an_endpoint_a_submit_says_so(executor: MakeExecutor) -> None:
    with pytest.raises(InputError, match="no endpoint_id"):
        executor(endpoint_id=None).submit(double, 1)


def test_a_task_that_raises_gives_its_traceback_and_code(executor: MakeExecutor) -> None:
    with pytest.raises(TaskExecutionFailed, match="ValueError: on purpose") as caught:
        executor().submit(fail_with, "on purpose").result(SOON_S)
    assert caught.value.code == "RemoteExecutionError"
    assert "Traceback" in caught.value.remote_data


def test_a_refused_submit_fails_its_own_batch_and_no_other(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.statuses["/v3/endpoints"] = [(422, {})]
    ex = executor()
    with pytest.raises(ComputeAPIError, match="PLANNED: planned 422") as caught:
        ex.submit(double, 1).result(SOON_S)
    assert caught.value.http_status == 422
    assert ex.submit(double, 2).result(SOON_S) == 4


def test_a_function_that_cannot_be_registered_fails_alone(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.statuses["/v3/functions"] = [(413, {})]
    ex = executor()
    with pytest.raises(ComputeAPIError, match="planned 413"):
        ex.submit(double, 1).result(SOON_S)
    assert ex.submit(double, 2).result(SOON_S) == 4


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_relay_that_is_busy_is_asked_again(executor: MakeExecutor, small: SmallRelay, status: int) -> None:
    small.faults.statuses["/v3/endpoints"] = [(status, {"Retry-After": "0"})] * 2
    assert executor().submit(double, 2).result(SOON_S) == 4
    assert small.count("/v3/endpoints") == 3


def test_retry_after_is_honoured(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.statuses["/v3/endpoints"] = [(429, {"Retry-After": "1"})]
    begin = time.monotonic()
    assert executor().submit(double, 2).result(SOON_S) == 4
    assert time.monotonic() - begin >= 1.0


def test_a_submit_whose_answer_is_lost_is_taken_once(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor()
    path = f"/v3/endpoints/{ex.endpoint_id}/submit"
    small.faults.break_connection = [path]
    assert ex.submit(double, 2).result(SOON_S) == 4
    assert small.count(path) == 2
    assert len(small.tasks) == 1


def test_results_that_come_before_the_answer_are_kept(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor()
    assert ex.submit(double, 1).result(SOON_S) == 2
    small.faults.results_first = True
    assert [f.result(SOON_S) for f in [ex.submit(double, n) for n in range(5)]] == [0, 2, 4, 6, 8]
    assert small.count("/v2/batch_status") == 0


def test_duplicate_and_foreign_results_are_ignored(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.duplicate_results = True
    ex = executor()
    assert list(ex.map(double, range(20), timeout=SOON_S)) == [2 * n for n in range(20)]


def test_a_message_that_is_no_result_is_put_aside_once(
    executor: MakeExecutor, small: SmallRelay, caplog: pytest.LogCaptureFixture
) -> None:
    ex = executor()
    assert ex.submit(double, 1).result(SOON_S) == 2
    small.publish(ex.task_group_id, b"\x01{nonsense")
    assert ex.submit(double, 3).result(SOON_S) == 6
    small.publish(ex.task_group_id, b"\x01{nonsense again")
    until(lambda: caplog.text.count("put aside") == 2, "both were seen")
    ex.shutdown()
    assert small.waiting(ex.task_group_id) == 0


def test_a_result_that_cannot_be_read_fails_its_future_and_tells_both_versions(
    executor: MakeExecutor, small: SmallRelay
) -> None:
    small.faults.details = {"python_version": "3.8.1", "dill_version": "0.3.1", "endpoint_id": new_id()}
    small.faults.hold_results = True
    ex = executor()
    future = ex.submit(double, 1)
    task = accepted(future)
    unreadable = Result(task_id=task, data="00\n!!\n", details=small.faults.details)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        small.publish(ex.task_group_id, encode(unreadable))
        error = future.exception(SOON_S)
    assert isinstance(error, DeserializationError)
    assert "dill 0.3.1 at the worker" in str(error)
    assert "Python 3.8.1 at the worker" in str(warned[0].message)


@pytest.mark.parametrize("sealed", [False, True])
def test_results_marked_high_assurance_are_fetched_over_http(
    executor: MakeExecutor, small: SmallRelay, sealed: bool
) -> None:
    small.faults.high_assurance = True
    small.seal_key = Secret("ab" * 32) if sealed else None
    ex = executor()
    assert [future.result(SOON_S) for future in [ex.submit(double, n) for n in range(300)]] == [
        2 * n for n in range(300)
    ]
    assert 1 <= small.count("/v2/batch_status") < 30, "many in one question"
    with pytest.raises(TaskExecutionFailed, match="oh no"):
        ex.submit(fail_with, "oh no").result(SOON_S)


@pytest.mark.parametrize("first", [False, True])
def test_a_result_that_could_not_be_fetched_or_came_before_the_answer_is_fetched_soon(
    executor: MakeExecutor, small: SmallRelay, first: bool
) -> None:
    small.faults.high_assurance, small.faults.results_first = True, first
    small.faults.statuses["/v2/batch_status"] = [(404, {})] * 2
    assert executor().submit(double, 4).result(SOON_S) == 8


def test_without_a_broker_results_come_over_http(
    executor: MakeExecutor, small: SmallRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AWAY_FIRST_S", 0.2)
    ex = executor(amqp_port=1)
    assert ex.submit(double, 5).result(SOON_S) == 10
    with pytest.raises(TaskExecutionFailed, match="oh no"):
        ex.submit(fail_with, "oh no").result(SOON_S)


def test_broken_credentials_are_fetched_again(
    executor: MakeExecutor, small: SmallRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AWAY_FIRST_S", 0.2)
    good = small.amqp_url
    small.amqp_url = good.replace("mep:", "mep:not", 1)
    ex = executor()
    ex.submit(double, 1).result(SOON_S)
    small.amqp_url = good
    assert ex.submit(double, 2).result(SOON_S) == 4  # asked for over HTTP; then so is the address
    until(ex._stream.streaming, "the stream has the new password", timeout_s=20)
    asked = small.count("/v2/batch_status")
    assert ex.submit(double, 3).result(SOON_S) == 6
    assert small.count("/v2/batch_status") == asked


def test_a_task_that_the_relay_forgot_fails_instead_of_hanging(
    executor: MakeExecutor, small: SmallRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AWAY_FIRST_S", 0.1)
    small.faults.hold_results = True
    ex = executor(amqp_port=1)
    future = ex.submit(double, 1)
    accepted(future)
    small.tasks.clear()
    with pytest.raises(ComputeAPIError, match="does not know the task"):
        future.result(SOON_S)


def test_a_revoked_token_fails_what_waits_and_says_what_to_do(
    executor: MakeExecutor, small: SmallRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AWAY_FIRST_S", 0.1)
    small.faults.hold_results = True
    ex = executor(amqp_port=1)
    future = ex.submit(double, 1)
    accepted(future)
    with small._lock:
        for task in small.tasks.values():
            task["status"] = "pending"
        small.token = "another"
    with pytest.raises(ComputeAPIError, match="mep login") as caught:
        future.result(SOON_S)
    assert caught.value.code is Code.AUTH_REQUIRED


def test_a_service_that_makes_task_groups_itself_is_followed(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.group_unknown = True
    ex = executor()
    assert ex.submit(double, 1).result(SOON_S) == 2
    assert ex.task_group_id in small.groups
    assert ex.submit(double, 2).result(SOON_S) == 4
    assert len(small.groups) == 1


def test_fewer_ids_than_tasks_fail_the_rest(executor: MakeExecutor, small: SmallRelay) -> None:
    small.faults.fewer_ids = True
    with pytest.raises(ComputeAPIError, match="accepted 0 of 1"):
        executor().submit(double, 1).result(SOON_S)


def test_functions_registered_before_can_be_called_by_id(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor()
    function_id = ex.register_function(double, description="other words")
    assert ex.submit_to_registered_function(function_id, (4,)).result(SOON_S) == 8
    assert ex.submit(double, 5).result(SOON_S) == 10
    assert ex.register_function(fail_with, function_id) == function_id
    assert ex.submit(fail_with, 6).result(SOON_S) == 12
    assert small.count("/v3/functions") == 1


def test_the_serializer_may_be_changed(executor: MakeExecutor, small: SmallRelay) -> None:
    ex = executor(serializer=Serializer(AllCodeStrategies, JSONData))
    assert ex.submit(double, 1).result(SOON_S) == 2
    ex.serializer = Serializer()
    assert ex.submit(double, 1).result(SOON_S) == 2
    kinds = [codes_of(f["function_code"]) for f in small.functions.values()]
    assert kinds == [["12"], ["01"]]


def test_shell_functions_run(executor: MakeExecutor) -> None:
    result = executor().submit(ShellFunction("echo {word}", name="say"), word="hello").result(SOON_S)
    assert result.stdout == "hello\n"
