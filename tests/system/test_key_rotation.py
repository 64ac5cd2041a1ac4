"""The relay's keys for start commands change while endpoints and their users go on."""

from __future__ import annotations

import json

import pytest

from mep.relay.auth.keys import Keys
from support.endpoint import Endpoint
from support.program import clean_environment, mep, run
from support.relay import Relay
from support.remote import WAIT_S, by_source, process_id
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)


def rotate(relay: Relay, times: int) -> None:
    """As an administrator does who forgets the endpoints."""
    for _ in range(times):
        run(mep("relay", "rotate-key", "--data-dir", relay.data_dir), env=clean_environment())
    relay.stop()
    relay.start()


def pinned(site: Endpoint) -> set[str]:
    return {key["kid"] for key in json.loads((site.state_dir / "relay_keys.json").read_text())}


def starts_one(site: Endpoint) -> None:
    """A user's task runs in a user endpoint that is started for it."""
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
    site.mep("stop-user", site.name, "alice")
    until(lambda: not site.user_endpoints(), "alice's user endpoint is gone")


def test_rotated_keys_fail_no_task_whether_or_not_the_endpoint_has_heard_of_them(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("rotated")
    sdk_env("alice@example.org")
    starts_one(site)
    (first,) = pinned(site)
    rotate(relay, times=2)
    starts_one(site)
    assert pinned(site) == {first}, "it has not been told"
    newest, middle = (key.kid for key in Keys(relay.data_dir).announced())
    for wanted in ({first, middle}, {middle, newest}):
        site.mep("reload", site.name)
        until(lambda wanted=wanted: pinned(site) == wanted, "it has one more")  # type: ignore[misc]
        starts_one(site)
    assert "COMMAND_BAD_SIGNATURE" not in site.log_text()
