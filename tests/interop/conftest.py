"""One corner, one relay and one daemon of each kind for the whole tier; SDK drivers are reused too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from interop.support.directories import STRANGER, write_directory
from interop.support.endpoints import Endpoint
from interop.support.places import require_stock_venv
from interop.support.relay import Relay, start_relay
from interop.support.sandbox import Sandbox, sandbox
from interop.support.sdk import SdkProcess, start_sdk

USERS = ("alice", "bob")

KINDS = ("stock", "mep")


@pytest.fixture(scope="session")
def corner() -> Iterator[Sandbox]:
    """The namespaces that all of this tier lives in."""
    require_stock_venv()
    if os.geteuid() != 0:
        pytest.skip("needs root for its namespaces and for the multi-user endpoints")
    with sandbox(USERS) as made:
        yield made


@pytest.fixture(scope="session")
def relay(corner: Sandbox) -> Iterator[Relay]:
    running = start_relay(corner)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def tokens(relay: Relay) -> dict[str, str]:
    """Bearer tokens by identity."""
    return {identity: relay.token(identity) for identity in ("alice@example.org", "bob@example.org", STRANGER)}


@pytest.fixture(scope="session")
def endpoint_of(corner: Sandbox, relay: Relay) -> Iterator[Callable[[str], Endpoint]]:
    """Return the running multi-user daemon of a kind; started at first use."""
    running: dict[str, Endpoint] = {}

    def get(which: str) -> Endpoint:
        if which not in running:
            directory = write_directory(corner.root / f"{which}-etc", "site", multi_user=True)
            endpoint = Endpoint(which, corner, directory, relay.client(f"{which}-site"))
            endpoint.start()
            running[which] = endpoint
        return running[which]

    yield get
    for endpoint in running.values():
        endpoint.stop()


@pytest.fixture(scope="session")
def sdk_of(corner: Sandbox, tokens: dict[str, str]) -> Iterator[Callable[[str], SdkProcess]]:
    """Return the driver process of a kind; started at first use."""
    running: dict[str, SdkProcess] = {}

    def get(which: str) -> SdkProcess:
        if which not in running or running[which].inside.process.poll() is not None:
            running[which] = start_sdk(corner, which, tokens)
        return running[which]

    yield get
    for sdk in running.values():
        sdk.stop()
