"""Fixtures that run real parts: relay, endpoint, the environment of an SDK user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import temporary_vhost
from support.endpoint import Endpoint
from support.relay import Relay

MakeEndpoint = Callable[..., Endpoint]
SdkEnv = Callable[[str], dict[str, str]]


def make_open_dir() -> Path:
    """Make a folder that every local user can traverse; in the sandbox only root may write in those above it."""
    parent = "/home" if os.environ.get("MEP_SANDBOX") == "1" else "/var/tmp"
    made = Path(tempfile.mkdtemp(prefix="mep-test-", dir=parent))
    made.chmod(0o755)
    return made


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that every local user can traverse and read (pytest's own tmp_path is the caller's alone)."""
    made = make_open_dir()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def relay(broker_node: BrokerAddress) -> Iterator[Relay]:
    """A relay for the tests of one file, on a virtual host of its own."""
    folder = make_open_dir()
    with temporary_vhost(broker_node) as broker:
        made = Relay(folder / "relay", broker, outlives_test=True)
        try:
            yield made.start()
        finally:
            made.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sdk_env(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> SdkEnv:
    """Call it with an identity: this process's SDK is that user until the test ends."""

    def become(identity: str) -> dict[str, str]:
        variables = relay.sdk_env(identity)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return become


@pytest.fixture
def endpoint(relay: Relay, open_dir: Path) -> Iterator[MakeEndpoint]:
    """Make, configure and start endpoints: endpoint("site", template=..., schema=..., mapping=..., config=...)."""
    made: list[Endpoint] = []

    def make(name: str = "site", *, user: str = "", start: bool = True, **files: Any) -> Endpoint:
        config_dir = open_dir / (f"etc-{user}" if user else "etc")
        if not config_dir.exists():
            config_dir.mkdir()
            if user:
                shutil.chown(config_dir, user, user)
        one = Endpoint(name, config_dir, relay, user)
        client = relay.client(name)
        one.extra_env |= {"MEP_CLIENT_ID": client.client_id, "MEP_CLIENT_SECRET": client.client_secret}
        one.configure(**files)
        made.append(one)
        return one.start() if start else one

    yield make
    for one in made:
        one.stop()
