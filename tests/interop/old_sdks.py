"""Older stock SDKs against our relay and endpoint. Not collected by default: it needs environments of its own.

python3 -m venv V && V/bin/pip install globus-compute-sdk==2.31.0
MEP_OLD_SDKS=V/bin[:W/bin] ./dev sandbox python -m pytest tests/interop/old_sdks.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.support.corner import Corner
from interop.support.directories import write_directory
from interop.support.endpoints import Endpoint
from interop.support.relay import ClientCredentials, Relay
from interop.support.sdk import SdkError, SdkProcess, start_sdk

FOLDERS = [Path(name) for name in os.environ.get("MEP_OLD_SDKS", "").split(":") if name]
OWNER = "the owner"


@pytest.fixture(scope="module")
def owner(relay: Relay) -> ClientCredentials:
    return relay.client("alices-old-program")


@pytest.fixture(scope="module")
def alices(corner: Corner, owner: ClientCredentials) -> Iterator[Endpoint]:
    """Old SDKs take no token: they log in as a client, whose own endpoint this is."""
    endpoint = Endpoint("mep", corner, write_directory(corner.root / "old", "own", owner="alice"), owner, "alice")
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.parent.name)
def sdk(request: pytest.FixtureRequest, corner: Corner, owner: ClientCredentials) -> Iterator[SdkProcess]:
    env = {**owner.environment(), "GLOBUS_SDK_ENVIRONMENT": "local"}
    started = start_sdk(
        corner, "stock", {}, env=env, name=request.param.parent.name, python=request.param / "python"
    )
    yield started
    started.stop()


def test_an_old_sdk_submits_and_reads_results(sdk: SdkProcess, alices: Endpoint) -> None:
    assert sdk.call("add", 2, 40, identity=OWNER, endpoint=alices.id) == 42
    assert sdk.ask("many", count=200, identity=OWNER, endpoint=alices.id)["right"] == 200
    polled = sdk.ask("run", function="add", arguments=[1, 2], identity=OWNER, endpoint=alices.id)
    assert polled["value"] == 3


def test_an_old_sdk_is_told_why_a_task_failed(sdk: SdkProcess, alices: Endpoint) -> None:
    with pytest.raises(SdkError, match="the reason why"):
        sdk.call("fail", "the reason why", identity=OWNER, endpoint=alices.id)
    with pytest.raises(SdkError) as caught:
        sdk.call("add", 1, 1, identity=OWNER, endpoint=alices.id, options={"workers": "many"})
    assert caught.value.answer.get("http_status") == 422
