"""Which key signs a start command: one that the endpoint knows, whatever became of the answer that told it."""

from __future__ import annotations

import jwt

from mep.relay.auth.keys import Keys, add_start_key
from support.fake_endpoint import FakeEndpoint, Http
from support.fleet import MakeEndpoint, alice, people, quick_relay, site, task_ids
from support.relay import Relay
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]


def refuse(endpoint: FakeEndpoint) -> str:
    """Take a start command and say that its key is unknown; return which one that was."""
    command = endpoint.command()
    assert command is not None, "no start command came"
    token = command.properties.headers["mep-signature"]
    request = jwt.decode(token, options={"verify_signature": False})["jti"]
    endpoint.notice(command.uep_id, error="unknown", error_code="COMMAND_BAD_SIGNATURE", request_id=request)
    return str(jwt.get_unverified_header(token)["kid"])


def test_a_command_whose_key_the_endpoint_does_not_know_is_sent_again_signed_by_the_one_before(
    site: MakeEndpoint, alice: Http, quick_relay: Relay
) -> None:
    endpoint, function = site(), alice.function()
    add_start_key(quick_relay.data_dir)
    quick_relay.stop()
    quick_relay.outlives_test = True
    quick_relay.start()
    new, old = (key.kid for key in Keys(quick_relay.data_dir).announced())
    endpoint.register()
    assert [key["kid"] for key in endpoint.answer["mep"]["keys"]] == [new, old]
    endpoint.connect()
    submitted = alice.submit(endpoint.id, function)
    assert [refuse(endpoint), refuse(endpoint)] == [new, old]
    (task_id,) = task_ids(submitted)
    until(lambda: alice.task(task_id)["status"] == "failed", "nobody is left to sign")
    assert "COMMAND_BAD_SIGNATURE" in alice.task(task_id)["exception"]
    alice.submit(endpoint.id, function)
    assert refuse(endpoint) == new, "the next one begins anew"
