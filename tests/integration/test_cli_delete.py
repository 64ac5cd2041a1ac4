"""`mep delete` with a real relay and an endpoint that was registered there."""

from __future__ import annotations

import subprocess

import urllib3

from mep.base.ids import is_uuid
from support.program import clean_environment, mep
from support.relay import Relay
from support.rigs import MakeEndpoint


def known_to_the_relay(relay: Relay, endpoint_id: str) -> bool:
    token = relay.token("owner@example.org")
    answer = urllib3.request(
        "GET",
        f"{relay.url}/v2/endpoints/{endpoint_id}",
        headers={"Authorization": f"Bearer {token}"},
        retries=False,
    )
    return answer.status == 200


def test_an_endpoint_is_forgotten_here_and_at_the_relay(relay: Relay, endpoint: MakeEndpoint) -> None:
    one = endpoint("going")
    endpoint_id = one.id
    assert is_uuid(endpoint_id)
    refused = one.mep("delete", "going", "--yes", check=False)
    assert "ALREADY_RUNNING" in refused.stderr
    assert one.directory.exists()
    one.stop()
    listed = one.mep("list", "--json").stdout
    assert endpoint_id in listed
    one.mep("delete", "going", "--yes")
    assert not one.directory.exists()
    assert not known_to_the_relay(relay, endpoint_id)


def test_a_relay_that_is_away_keeps_it_unless_forced(relay: Relay, endpoint: MakeEndpoint) -> None:
    one = endpoint("kept", start=False)
    one.directory.joinpath("endpoint.json").write_text('{"endpoint_id": "0123abcd-0000-4000-8000-000000000001"}')
    config = one.directory / "config.yaml"
    config.write_text(config.read_text().replace(relay.url, "http://127.0.0.1:9"))
    command = mep("--config-dir", one.directory.parent, "delete", "kept", "--yes")
    environment = clean_environment(extra=one.extra_env)
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 75, refused.stderr
    assert "RELAY_UNREACHABLE" in refused.stderr
    assert one.directory.exists()
    forced = subprocess.run([*command, "--force"], env=environment, capture_output=True, text=True, check=False)
    assert forced.returncode == 0, forced.stderr
    assert "warning" in forced.stderr
    assert not one.directory.exists()
