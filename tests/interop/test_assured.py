"""A high-assurance endpoint: both SDKs fetch their results over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from interop.support.corner import Corner
from interop.support.directories import write_directory
from interop.support.endpoints import Endpoint
from interop.support.relay import Relay
from interop.support.sdk import SdkError, SdkProcess

ALICE = "alice@example.org"


@pytest.fixture(scope="module")
def assured(corner: Corner, relay: Relay) -> Iterator[Endpoint]:
    directory = write_directory(corner.root / "assured-etc", "site")
    with (directory.path / "config.yaml").open("a") as file:
        file.write("\nhigh_assurance: true\n")
    endpoint = Endpoint("mep", corner, directory, relay.client("assured-site"))
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.mark.parametrize("which", ["stock", "mep"])
def test_results_of_a_high_assurance_endpoint_reach_the_sdk(
    sdk_of: Callable[[str], SdkProcess], assured: Endpoint, which: str
) -> None:
    sdk = sdk_of(which)
    assert sdk.ask("many", count=20, identity=ALICE, endpoint=assured.id)["right"] == 20
    with pytest.raises(SdkError, match="the reason why"):
        sdk.call("fail", "the reason why", identity=ALICE, endpoint=assured.id)
