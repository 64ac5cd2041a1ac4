"""The fake gives what the real executor would, as far as that can be known without an endpoint."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest

from mep import Executor, SerializationError, ShellFunction, TaskExecutionFailed
from mep.serialize import JSONData, Serializer
from mep.testing import FakeExecutor


@pytest.fixture
def fake() -> Iterator[FakeExecutor]:
    with FakeExecutor("e", user_endpoint_config={"account": "a"}) as made:
        yield made


def _pair(a: int, b: int = 0) -> tuple[int, int]:
    return a, b


def _fail() -> None:
    raise ValueError("on purpose")


def test_it_takes_what_the_real_one_takes_and_has_what_it_has() -> None:
    real, ours = (inspect.signature(cls.__init__).parameters for cls in (Executor, FakeExecutor))
    assert [name for name in real if name not in ours] == ["unknown"]
    public = {name for name in dir(Executor) if not name.startswith("_")}
    missing = public - set(dir(FakeExecutor("e")))
    assert missing == {"get_worker_hardware_details", "register_source_code"}


def test_calls_run_here_and_are_noted(fake: FakeExecutor) -> None:
    assert fake.submit(_pair, 1, b=2).result(5) == (1, 2)
    call = fake.submitted[0]
    assert (call.function_name, call.args, call.kwargs) == ("_pair", (1,), {"b": 2})
    assert (call.endpoint_id, call.user_endpoint_config) == ("e", {"account": "a"})
    assert list(fake.map(_pair, range(3))) == [(0, 0), (1, 0), (2, 0)]
    assert [f.task_id for f in fake.reload_tasks()] == [one.task_id for one in fake.submitted]


def test_a_function_that_raises_fails_as_a_task(fake: FakeExecutor) -> None:
    with pytest.raises(TaskExecutionFailed, match="ValueError: on purpose"):
        fake.submit(_fail).result(5)


def test_arguments_and_results_go_through_text() -> None:
    with FakeExecutor("e", serializer=Serializer(data_strategy=JSONData), result_serializers=[JSONData]) as fake:
        assert fake.submit(_pair, 1).result(5) == [1, 0]
        with pytest.raises(SerializationError):
            fake.submit(_pair, {1})
        with pytest.raises(SerializationError):
            fake.submit(set).result(5)


def test_what_a_function_gives_can_be_planned(fake: FakeExecutor) -> None:
    fake.plan(_pair, returns="planned")
    fake.plan("os_fork", raises="WorkerLost")
    assert fake.submit(_pair, 1).result(5) == "planned"
    with pytest.raises(TaskExecutionFailed, match="WorkerLost"):
        fake.submit(ShellFunction("kill -9 $$", name="os_fork")).result(5)


def test_registered_functions_and_shell_functions_work(fake: FakeExecutor, tmp_path: Any) -> None:
    function_id = fake.register_function(_pair)
    assert fake.submit_to_registered_function(function_id, (3,)).result(5) == (3, 0)
    result = fake.submit(ShellFunction("echo {x}"), x=1).result(5)
    assert result.stdout == "1\n"
    assert os.getpid() == fake.submit(os.getpid).result(5)
