"""One corner, one relay and one daemon of each kind for the whole tier; SDK drivers are reused too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from interop.support.corner import Corner, why_not
from interop.support.corner import corner as make_corner
from interop.support.directories import STRANGER, write_directory
from interop.support.endpoints import Endpoint
from interop.support.places import why_no_stock
from interop.support.relay import Relay, start_relay
from interop.support.sdk import SdkProcess, start_sdk

IDENTITIES = ("alice@example.org", "bob@example.org", STRANGER)


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    """Daemons live as long as the tier here, and restart within tests; the corner ends all of them."""


@pytest.fixture(scope="session")
def corner() -> Iterator[Corner]:
    """Where all of this tier lives; skips (in CI: fails) where it cannot be."""
    why = why_not() or why_no_stock()
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with make_corner() as made:
        yield made


@pytest.fixture(scope="session")
def relay(corner: Corner) -> Relay:
    """Our relay; the corner ends it, as it does the daemons and drivers below."""
    return start_relay(corner)


@pytest.fixture(scope="session")
def tokens(relay: Relay) -> dict[str, str]:
    """Bearer tokens by identity."""
    return {identity: relay.token(identity) for identity in IDENTITIES}


@pytest.fixture(scope="session")
def endpoint_of(corner: Corner, relay: Relay) -> Callable[[str], Endpoint]:
    """Return the running multi-user daemon of a kind; started at first use."""
    running: dict[str, Endpoint] = {}

    def get(which: str) -> Endpoint:
        if which not in running:
            directory = write_directory(corner.root / f"{which}-etc", "site")
            endpoint = Endpoint(which, corner, directory, relay.client(f"{which}-site"))
            endpoint.start()
            running[which] = endpoint
        return running[which]

    return get


@pytest.fixture(scope="session")
def sdk_of(corner: Corner, tokens: dict[str, str]) -> Callable[[str], SdkProcess]:
    """Return the driver process of a kind; started at first use."""
    running: dict[str, SdkProcess] = {}

    def get(which: str) -> SdkProcess:
        if which not in running or not running[which].program.running:
            running[which] = start_sdk(corner, which, tokens)
        return running[which]

    return get
