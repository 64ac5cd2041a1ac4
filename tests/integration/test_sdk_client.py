"""The client, and login, against a real relay."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep import Client, ComputeAPIError, Executor, TaskPending
from mep.base.codes import Code
from mep.base.ids import is_uuid, new_id
from mep.sdk.credentials import find_authorizer
from mep.serialize import Serializer
from support.program import clean_environment, run
from support.program import mep as mep_command
from support.relay import Relay

SCHEMA = {"type": "object", "properties": {"cores": {"type": "integer"}}, "additionalProperties": False}


@pytest.fixture
def client(relay: Relay) -> Iterator[Client]:
    made = Client(relay_url=relay.url, token=relay.token("alice@example.org"))
    yield made
    made.close()


@pytest.fixture
def endpoint_id(relay: Relay) -> Iterator[str]:
    """An endpoint that is registered and never comes up, owned by bob."""
    owner = Client(relay_url=relay.url, token=relay.token("bob@example.org"))
    metadata = {
        "endpoint_version": "4.19.0",
        "python_version": "3.11.2",
        "hostname": "h",
        "local_user": "root",
        "user_config_schema": SCHEMA,
    }
    answer = owner.register_endpoint("site", None, metadata, multi_user=True, public=True, high_assurance=False)
    yield answer["endpoint_id"]
    owner.delete_endpoint(answer["endpoint_id"])
    owner.close()


def _double(x: int) -> int:
    """Twice as much."""
    return 2 * x


def test_the_relay_knows_who_we_are(client: Client) -> None:
    me = client.whoami()
    assert me["preferred_username"] == "alice@example.org"
    assert me["sub"] in [identity["sub"] for identity in me["identity_set"]]


def test_a_wrong_token_is_told_what_to_do(relay: Relay) -> None:
    client = Client(relay_url=relay.url, token="wrong")
    with pytest.raises(ComputeAPIError, match="mep login") as caught:
        client.get_endpoints()
    assert (caught.value.code, caught.value.http_status) == (Code.AUTH_REQUIRED, 401)
    client.close()


def test_an_older_sdk_than_the_relay_serves_is_told(client: Client) -> None:
    assert client.get_version()["min_sdk_version"]
    client.version_check(endpoint_version="4.19.0")


def test_functions_are_kept_as_registered_and_deleted(client: Client) -> None:
    function_id = client.register_function(_double)
    stored = client.get_function(function_id)
    assert (stored["function_name"], stored["description"]) == ("_double", "Twice as much.")
    code = Serializer().unpack(stored["function_code"])[0]
    assert Serializer().deserialize(code)(4) == 8
    client.delete_function(function_id)
    with pytest.raises(ComputeAPIError) as caught:
        client.get_function(function_id)
    assert (caught.value.code, caught.value.http_status) == ("FUNCTION_NOT_FOUND", 404)


def test_source_code_can_be_registered(client: Client) -> None:
    function_id = client.register_source_code("def triple(x):\n    return 3 * x\n", "triple")
    code = Serializer().unpack(client.get_function(function_id)["function_code"])[0]
    assert Serializer().deserialize(code)(4) == 12


def test_endpoints_are_shown_to_those_who_may_use_them(client: Client, endpoint_id: str) -> None:
    assert endpoint_id not in [e["uuid"] for e in client.get_endpoints()]
    assert endpoint_id in [e["uuid"] for e in client.get_endpoints(role="any")]
    assert client.get_endpoint_status(endpoint_id)["status"] == "offline"
    assert client.get_endpoint_metadata(endpoint_id)["name"] == "site"
    assert client.get_allowed_functions(endpoint_id)["restricted"] is False


def test_a_batch_is_accepted_and_pending(client: Client, endpoint_id: str) -> None:
    function_id = client.register_function(_double)
    batch = client.create_batch(user_endpoint_config={"cores": 2})
    batch.add(function_id, (1,))
    batch.add(function_id, kwargs={"x": 2})
    answer = client.batch_run(endpoint_id, batch)
    tasks = answer["tasks"][function_id]
    assert len(tasks) == 2
    assert all(is_uuid(task) for task in tasks)
    with pytest.raises(TaskPending):
        client.get_result(tasks[0])
    assert {task["pending"] for task in client.get_batch_result(tasks).values()} == {True}
    assert [task["id"] for task in client.get_task_group(answer["task_group_id"])["tasks"]] == tasks


def test_a_repeated_submit_with_the_same_key_is_one_submit(client: Client, endpoint_id: str) -> None:
    batch = client.create_batch(task_group_id=new_id())
    batch.add(client.register_function(_double), (1,))
    key = new_id()
    assert client.batch_run(endpoint_id, batch, idempotency_key=key) == client.batch_run(
        endpoint_id, batch, idempotency_key=key
    )


def test_options_against_the_schema_fail_the_future_with_path_and_wanted(client: Client, endpoint_id: str) -> None:
    with Executor(endpoint_id, client, user_endpoint_config={"cores": "many"}) as executor:
        error = executor.submit(_double, 1).exception(10)
    assert isinstance(error, ComputeAPIError)
    assert (error.http_status, error.code) == (422, Code.OPTIONS_INVALID)
    assert re.search(r"cores.*many.*integer", str(error))
    assert str(error).count("OPTIONS_INVALID") == 1


@pytest.mark.parametrize("endpoint", [new_id(), "../../v2/version", "no-uuid"])
def test_an_endpoint_that_does_not_exist_fails_the_future(client: Client, endpoint: str) -> None:
    with Executor(endpoint, client) as executor:
        error = executor.submit(_double, 1).exception(10)
    assert isinstance(error, ComputeAPIError)
    assert error.http_status in (400, 404, 422)


def test_another_session_finds_the_pending_tasks(client: Client, endpoint_id: str) -> None:
    first = Executor(endpoint_id, client)
    future = first.submit(_double, 1)
    group = first.task_group_id
    first._submitter.outbox.wait_sent(10)
    first.shutdown(cancel_futures=True)
    second = Executor(endpoint_id, client)
    assert [f.task_id for f in second.reload_tasks(group)] == [future.task_id]
    second.shutdown(cancel_futures=True)


def test_client_credentials_get_a_token_and_another_when_it_is_refused(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = relay.client("nightly")
    monkeypatch.setenv("MEP_CLIENT_ID", program.client_id)
    monkeypatch.setenv("MEP_CLIENT_SECRET", program.client_secret)
    client = Client(relay_url=relay.url)
    assert client.whoami()["preferred_username"] == program.username
    from mep.base.secrets import Secret

    client._http.authorizer._token = Secret("stale")  # type: ignore[union-attr]
    assert client.whoami()["preferred_username"] == program.username
    monkeypatch.setenv("MEP_CLIENT_SECRET", "wrong")
    with pytest.raises(ComputeAPIError) as caught:
        Client(relay_url=relay.url).whoami()
    assert caught.value.http_status == 401
    client.close()


class Person:
    """Somebody at a terminal, with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def mep(self, *arguments: str, typed: str = "", check: bool = True) -> Any:
        environment = clean_environment(extra={"HOME": str(self.home)})
        return run(mep_command(*arguments), env=environment, check=check, stdin=typed)


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def test_login_whoami_logout(relay: Relay, person: Person) -> None:
    token = relay.token("alice@example.org")
    done = person.mep("login", "--relay", f"{relay.url}/", "--token-stdin", typed=f"{token}\n")
    assert f"Logged in to {relay.url} as alice@example.org" in done.stdout
    stored = person.home / ".config" / "mep" / "credentials.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert json.loads(person.mep("whoami", "--json").stdout)["preferred_username"] == "alice@example.org"
    assert person.mep("whoami").stdout.startswith("alice@example.org at ")
    person.mep("logout")
    assert not stored.exists()
    refused = person.mep("whoami", check=False)
    assert (refused.returncode, "Traceback" in refused.stderr) == (77, False)
    assert "mep login" in refused.stderr


def test_a_wrong_token_is_not_stored(relay: Relay, person: Person) -> None:
    done = person.mep("login", "--relay", relay.url, "--token-stdin", typed="wrong\n", check=False)
    assert done.returncode == 77
    assert "AUTH_REQUIRED" in done.stderr
    assert not (person.home / ".config").exists()


@pytest.mark.parametrize(
    ("arguments", "typed", "text"),
    [
        (["--token-stdin"], "t\n", "Give --relay URL"),
        (["--relay", "nonsense", "--token-stdin"], "t\n", "wanted https://HOST"),
        (["--relay", "http://localhost:1", "--token-stdin"], "\n", "no token"),
        (["--relay", "http://localhost:1"], "t\n", "Use --token-stdin"),
    ],
)
def test_a_login_that_cannot_be_is_a_usage_error(
    person: Person, arguments: list[str], typed: str, text: str
) -> None:
    done = person.mep("login", *arguments, typed=typed, check=False)
    assert done.returncode == 2
    assert text in done.stderr


def test_a_relay_that_is_away_is_said_soon(person: Person) -> None:
    done = person.mep("login", "--relay", "http://localhost:1", "--token-stdin", typed="t\n", check=False)
    assert done.returncode == 75
    assert "RELAY_UNREACHABLE" in done.stderr


def test_a_globus_app_is_taken_as_credentials(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """globus_sdk speaks to our relay's token route as it does to Globus Auth's."""
    import globus_sdk
    from globus_sdk.token_storage import MemoryTokenStorage

    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{relay.url}/")
    program = relay.client("with-globus-sdk")
    config = globus_sdk.GlobusAppConfig(token_storage=MemoryTokenStorage())
    app = globus_sdk.ClientApp(
        "t", client_id=program.client_id, client_secret=program.client_secret, config=config
    )
    client = Client(relay_url=relay.url, app=app)
    assert client.whoami()["preferred_username"] == program.username
    client.close()


def test_clients_of_the_hosted_service_get_their_token_by_globus_sdk(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", f"{relay.url}/")
    program = relay.client("hosted")
    monkeypatch.setenv("MEP_CLIENT_ID", program.client_id)
    monkeypatch.setenv("MEP_CLIENT_SECRET", program.client_secret)
    authorizer = find_authorizer("https://compute.api.globus.org")
    client = Client(relay_url=relay.url, authorizer=authorizer)
    assert client.whoami()["preferred_username"] == program.username
    client.close()


def test_at_a_terminal_the_token_is_asked_for_and_not_shown(relay: Relay, tmp_path: Path) -> None:
    token = relay.token("alice@example.org")
    ours, theirs = pty.openpty()
    environment = clean_environment(extra={"HOME": str(tmp_path)})
    command = mep_command("login", "--relay", relay.url)
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while b"Token for" not in shown:
                shown += os.read(ours, 1024)
            os.write(ours, f"{token}\n".encode())
            while b"Logged in" not in shown:
                shown += os.read(ours, 1024)
            assert process.wait(10) == 0
        finally:
            process.kill()
            os.close(ours)
    assert token.encode() not in shown
