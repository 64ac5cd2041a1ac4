"""Kinds of functions and results beyond a plain call, between the packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from interop.support.endpoints import Endpoint
from interop.support.sdk import SdkError, SdkProcess

ALICE = "alice@example.org"
CROSSED = [("stock", "mep"), ("mep", "stock")]

Ask = Callable[..., Any]


@pytest.fixture(params=CROSSED, ids=[f"{s}-sdk-to-{e}-endpoint" for s, e in CROSSED], scope="module")
def ask(
    request: pytest.FixtureRequest,
    sdk_of: Callable[[str], SdkProcess],
    endpoint_of: Callable[[str], Endpoint],
) -> Ask:
    """Ask one side's SDK about the other side's endpoint."""
    sdk, endpoint = sdk_of(request.param[0]), endpoint_of(request.param[1])
    return lambda verb, **more: sdk.ask(verb, identity=ALICE, endpoint=endpoint.id, **more)


def test_a_shell_function_formats_its_command_and_returns_its_output(ask: Ask) -> None:
    answer = ask("shell", command="echo {word}; echo oops >&2", keywords={"word": "hello"})
    assert answer["type"] == "ShellResult"
    assert answer["value"]["stdout"] == "hello\n"
    assert answer["value"]["stderr"].startswith("oops\n"), "the stock worker appends a warning"
    assert answer["value"]["returncode"] == 0


def test_a_shell_function_that_exceeds_its_walltime_returns_124(ask: Ask) -> None:
    value = ask("shell", command="sleep 20", shell={"walltime": 0.3})["value"]
    assert value["returncode"] == 124
    assert value["exception_name"] == "subprocess.TimeoutExpired"


def test_a_shell_function_that_fails_returns_its_status(ask: Ask) -> None:
    value = ask("shell", command="exit 7")["value"]
    assert value["returncode"] == 7
    assert value["exception_name"] == "subprocess.CalledProcessError"


def test_a_shell_function_can_return_a_plain_dict(ask: Ask) -> None:
    answer = ask("shell", command="echo hi", shell={"return_dict": True})
    assert answer["type"] == "dict"
    assert answer["value"]["stdout"] == "hi\n"


def test_the_submitter_chooses_how_results_are_serialized(ask: Ask) -> None:
    serializers = ["globus_compute_sdk.serialize.JSONData"]
    outcomes = ask("call", function="echo", arguments=[[1, "a"]], serializers=serializers)["outcomes"]
    assert outcomes == [{"value": [1, "a"]}]
    outcomes = ask("call", function="pair", arguments=[1], serializers=serializers)["outcomes"]
    assert outcomes == [{"value": [1, 1]}], "JSON has no tuples"
    failed = ask("call", function="unjsonable", serializers=serializers)["outcomes"][0]
    assert failed["error"] == "TaskExecutionFailed"


def test_a_result_above_the_limit_is_refused_by_name(ask: Ask) -> None:
    outcome = ask("call", function="blow_up", arguments=[11_000_000])["outcomes"][0]
    assert outcome["error"] == "TaskExecutionFailed"
    assert "MaxResultSizeExceeded" in outcome["text"] or "RESULT_TOO_LARGE" in outcome["text"]


def test_a_batch_runs_and_is_read_by_polling(ask: Ask) -> None:
    assert ask("batch", count=5) == [1, 2, 3, 4, 5]


def test_a_crash_of_a_worker_process_fails_its_task_and_spares_the_next(
    sdk_of: Callable[[str], SdkProcess], endpoint_of: Callable[[str], Endpoint]
) -> None:
    sdk, endpoint = sdk_of("stock"), endpoint_of("mep")
    there = {"identity": ALICE, "endpoint": endpoint.id, "options": {"engine": "ProcessPoolEngine", "workers": 1}}
    with pytest.raises(SdkError) as caught:
        sdk.call("crash", **there)
    assert caught.value.kind == "TaskExecutionFailed"
    assert sdk.call("add", 1, 2, **there) == 3
