"""The stock command line and the stock client's other methods against our relay; endpoints of a single user."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.support import web
from interop.support.corner import Corner
from interop.support.directories import write_directory
from interop.support.endpoints import Endpoint
from interop.support.relay import ClientCredentials, Relay
from interop.support.sdk import SdkError, SdkProcess, start_sdk

ALICE, BOB = "alice@example.org", "bob@example.org"
#: an identity without a token: the driver logs in with the client's id and secret from its environment
OWNER = "the owner"


@pytest.fixture(scope="module")
def owner(relay: Relay) -> ClientCredentials:
    """Alice's program: it owns her endpoints and submits to them."""
    return relay.client("alices-program")


@pytest.fixture(scope="module", params=["stock", "mep"])
def alices(
    request: pytest.FixtureRequest, corner: Corner, relay: Relay, owner: ClientCredentials
) -> Iterator[Endpoint]:
    """An endpoint that alice runs for herself, of each kind."""
    parent = Path(tempfile.mkdtemp(prefix=f"alice-{request.param}-", dir=corner.root))
    directory = write_directory(parent, "own", owner="alice")
    endpoint = Endpoint(request.param, corner, directory, owner, user="alice")
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.fixture(scope="module", params=["stock", "mep"])
def owners_sdk(
    request: pytest.FixtureRequest, corner: Corner, owner: ClientCredentials, tokens: dict[str, str]
) -> Iterator[SdkProcess]:
    """An SDK that logs in with the client's id and secret; its other identities use tokens."""
    sdk = start_sdk(corner, request.param, tokens, env=owner.environment(), name="-owner")
    yield sdk
    sdk.stop()


def test_an_owner_runs_functions_on_an_endpoint_of_their_own(owners_sdk: SdkProcess, alices: Endpoint) -> None:
    found = owners_sdk.call("whoami", identity=OWNER, endpoint=alices.id)
    assert found["user"] == "alice"
    assert found["site"] == "example-site"


def test_nobody_else_runs_functions_on_it(owners_sdk: SdkProcess, alices: Endpoint) -> None:
    with pytest.raises(SdkError) as caught:
        owners_sdk.call("add", 1, 1, identity=BOB, endpoint=alices.id)
    assert caught.value.answer.get("http_status") in (403, 404) or "own" in caught.value.text


@pytest.fixture
def throwaway(corner: Corner, relay: Relay) -> Iterator[Endpoint]:
    """A stock endpoint of bob's for one test."""
    directory = write_directory(corner.root / "bob-stock", "throwaway", owner="bob")
    endpoint = Endpoint("stock", corner, directory, relay.client("bobs-program"), user="bob")
    endpoint.start()
    yield endpoint
    endpoint.stop()


def test_the_stock_command_line_does_what_it_says(throwaway: Endpoint) -> None:
    credentials = throwaway.credentials
    assert credentials.client_id[:8] in throwaway.cli("whoami").stdout, "the table breaks long names"
    refused = throwaway.cli("delete", "--yes", "throwaway", check=False)
    assert refused.returncode != 0, "an endpoint that is online is not deleted"

    program = throwaway.program
    assert program is not None
    throwaway.cli("stop", "--remote", "throwaway", check=False)
    program.process.wait(20)
    throwaway.wait_status("offline", 20)
    again = throwaway.corner.run(
        throwaway.command("start", "throwaway"), user="bob", env=throwaway.environment(), check=False
    )
    assert again.returncode == 69, "locked: " + again.stderr

    throwaway.cli("delete", "--yes", "throwaway")
    token = web.client_token(credentials.client_id, credentials.client_secret)["access_token"]
    assert web.request("GET", f"/v2/endpoints/{throwaway.id}", token=token).status == 404
    throwaway.program = None


def test_the_stock_client_reads_endpoints_functions_and_tasks(
    sdk_of: Callable[[str], SdkProcess], endpoint_of: Callable[[str], Endpoint]
) -> None:
    endpoint = endpoint_of("mep")

    def client(method: str, *arguments: object) -> object:
        return sdk_of("stock").ask("client", identity=ALICE, method=method, arguments=list(arguments))

    assert client("get_endpoint_status", endpoint.id)["status"] == "online"  # type: ignore[index]
    assert endpoint.id in str(client("get_endpoint_metadata", endpoint.id))
    assert client("get_allowed_functions", endpoint.id) == {
        "endpoint_id": endpoint.id,
        "restricted": False,
        "functions": [],
    }
    assert "connection_url" in client("get_result_amqp_url")  # type: ignore[operator]
    source = "def triple(x):\n    return 3 * x\n"
    function = client("register_source_code", source, "triple")
    assert client("get_function", function)["function_name"] == "triple"  # type: ignore[index]
    task = client("run_by_id", 14, endpoint.id, function)
    assert task == 42
    client("delete_function", function)
    with pytest.raises(SdkError) as caught:
        client("get_function", function)
    assert caught.value.answer["http_status"] == 404
