"""Every pairing of SDK and endpoint through our relay keeps the same promises."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from typing import Any

import pytest

from interop.support.directories import STRANGER
from interop.support.endpoints import Endpoint
from interop.support.sdk import SdkError, SdkProcess

ALICE, BOB = "alice@example.org", "bob@example.org"
MEGABYTES = 5

#: ours to ours is the control: what fails there is no matter of interoperation
PAIRS = [("stock", "stock"), ("stock", "mep"), ("mep", "stock"), ("mep", "mep")]


class Pair:
    """An SDK, an endpoint, and calls from one to the other."""

    def __init__(self, sdk: SdkProcess, endpoint: Endpoint) -> None:
        self.sdk, self.endpoint = sdk, endpoint

    def call(self, function: str, *arguments: Any, identity: str = ALICE, **request: Any) -> Any:
        return self.sdk.call(function, *arguments, identity=identity, endpoint=self.endpoint.id, **request)

    def ask(self, verb: str, *, identity: str = ALICE, **request: Any) -> Any:
        return self.sdk.ask(verb, identity=identity, endpoint=self.endpoint.id, **request)

    def refused(self, *arguments: Any, **request: Any) -> SdkError:
        """Call and return the error that must come."""
        with pytest.raises(SdkError) as caught:
            self.call(*arguments, **request)
        return caught.value


@pytest.fixture(params=PAIRS, ids=[f"{s}-sdk-to-{e}-endpoint" for s, e in PAIRS], scope="session")
def pair(
    request: pytest.FixtureRequest,
    sdk_of: Callable[[str], SdkProcess],
    endpoint_of: Callable[[str], Endpoint],
) -> Pair:
    sdk, endpoint = request.param
    return Pair(sdk_of(sdk), endpoint_of(endpoint))


def test_a_call_returns_its_value(pair: Pair) -> None:
    assert pair.call("add", 2, 40) == 42


def test_it_runs_as_the_mapped_user_with_that_users_home_and_nobody_elses_secrets(pair: Pair) -> None:
    for user, identity in (("alice", ALICE), ("bob", BOB)):
        account = pwd.getpwnam(user)
        found = pair.call("whoami", identity=identity)
        assert (found["user"], found["uid"], found["euid"]) == (user, account.pw_uid, account.pw_uid)
        assert found["home"] == account.pw_dir
        assert found["site"] == "example-site"
        assert found["secrets"] == []


def test_an_exception_comes_back_with_the_remote_traceback(pair: Pair) -> None:
    error = pair.refused("fail", "the reason why")
    assert error.kind == "TaskExecutionFailed"
    assert "ValueError" in error.text
    assert "the reason why" in error.text
    assert "Traceback" in error.text


def test_options_outside_the_schema_are_refused_at_submit_naming_path_and_value(pair: Pair) -> None:
    error = pair.refused("add", 1, 1, options={"workers": "many"})
    assert error.answer.get("http_status") == 422
    assert "workers" in error.text
    assert "many" in error.text
    assert "integer" in error.text


def test_a_configuration_that_the_endpoint_cannot_use_fails_the_task_with_its_reason(pair: Pair) -> None:
    for _ in range(2):  # a stock endpoint drops a command that comes right after a failed start
        error = pair.refused("add", 1, 1, options={"site_error": True})
        assert error.kind == "TaskExecutionFailed"
        assert "NoSuchEngine" in error.text


def test_an_identity_that_maps_to_nobody_is_told_so(pair: Pair) -> None:
    error = pair.refused("add", 1, 1, identity=STRANGER)
    assert error.kind == "TaskExecutionFailed"
    assert "map" in error.text.lower()


def test_options_choose_the_user_endpoint_and_the_same_options_find_the_same_one(pair: Pair) -> None:
    plain = pair.call("whoami")
    threads = pair.call("whoami", options={"workers": 2, "label": "a: b # {{ c }}"})
    again = pair.call("whoami", options={"label": "a: b # {{ c }}", "workers": 2})
    assert threads["pid"] == again["pid"]
    assert threads["pid"] != plain["pid"]
    processes = pair.call("whoami", options={"engine": "ProcessPoolEngine", "workers": 1})
    assert processes["ppid"] != plain["ppid"], "a thread's parent is the daemon, a worker's is not"
    assert processes["pid"] not in (plain["pid"], threads["pid"])


def test_a_thousand_tasks_return_a_thousand_values(pair: Pair) -> None:
    answer = pair.ask("many", count=1000)
    assert answer["right"] == 1000


def test_five_megabytes_go_there_and_back(pair: Pair) -> None:
    outcome = pair.ask("call", function="echo", megabytes=MEGABYTES)["outcomes"][0]
    assert outcome == {"value": MEGABYTES * 1_000_000}


def test_results_are_found_again_by_task_group_and_by_polling(pair: Pair) -> None:
    assert pair.ask("reload", count=3) == [1, 2, 3]
    assert pair.ask("run", function="add", arguments=[20, 22])["value"] == 42


def test_an_endpoint_that_restarts_between_two_submits_serves_the_second(pair: Pair) -> None:
    before = pair.call("whoami")
    pair.endpoint.restart()
    after = pair.call("whoami")
    assert after["user"] == before["user"] == "alice"
    assert after["pid"] != before["pid"]
