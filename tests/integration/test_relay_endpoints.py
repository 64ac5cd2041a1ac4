"""Endpoints register, are seen online and offline, are locked and deleted."""

from __future__ import annotations

import time
from contextlib import closing

import pika
import pytest

from mep.base.ids import new_id
from mep.sdk.errors import ComputeAPIError
from support.fake_endpoint import FakeEndpoint, FakeUep, Http, Peer, registration
from support.fleet import LOCK_S, MakeEndpoint, People, alice, people, quick_relay, site, stream, task_ids
from support.relay import Relay
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]


def status(person: Http, endpoint: FakeEndpoint) -> str:
    return str(person.ok("GET", f"/v2/endpoints/{endpoint.id}/status")["status"])


def test_registration_gives_all_four_kinds_of_queue_and_the_keys(site: MakeEndpoint) -> None:
    answer = site().answer
    assert answer["command_queue_info"]["queue"] == f"{answer['endpoint_id']}.commands"
    for kind in ("task", "result", "heartbeat"):
        assert answer[f"{kind}_queue_info"]["connection_url"].startswith("amqp://")
    assert answer["heartbeat_queue_info"]["queue_publish_kwargs"]["routing_key"].endswith(".heartbeats")
    assert len(answer["mep"]["keys"][0]["x"]) == 64


def test_registering_again_keeps_the_id_and_the_credentials(site: MakeEndpoint) -> None:
    endpoint = site()
    before = endpoint.answer
    assert endpoint.register(display_name="new").answer == before
    assert endpoint.owner.ok("GET", f"/v2/endpoints/{endpoint.id}")["display_name"] == "new"
    endpoint.beat()  # the connection of before lives on


def test_nobody_takes_over_another_s_endpoint(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    body = alice.error("PUT", f"/v3/endpoints/{endpoint.id}", json=registration())
    assert (body["http_status_code"], body["code"]) == (403, "ENDPOINT_ACCESS_FORBIDDEN")
    for method, path in (
        ("POST", f"/v3/endpoints/{endpoint.id}/lock"),
        ("DELETE", f"/v2/endpoints/{endpoint.id}"),
    ):
        assert alice.error(method, path)["code"] == "ENDPOINT_ACCESS_FORBIDDEN"


def test_an_endpoint_may_bring_its_own_id(alice: Http) -> None:
    wanted = new_id()
    assert alice.ok("PUT", f"/v3/endpoints/{wanted}", json=registration())["endpoint_id"] == wanted


def test_a_single_user_endpoint_is_for_its_owner_and_administrators(people: People, site: MakeEndpoint) -> None:
    endpoint = site(public=False, multi_user=False, admins=["alice@example.org"])
    assert people("alice@example.org").ok("GET", f"/v2/endpoints/{endpoint.id}")["public"] is False
    assert people("bob@example.org").error("GET", f"/v2/endpoints/{endpoint.id}")["http_status_code"] == 403


def test_a_multi_user_endpoint_that_is_not_public_is_unlisted_and_usable(
    people: People, site: MakeEndpoint
) -> None:
    endpoint, bob = site(public=False), people("bob@example.org")
    assert endpoint.id not in [e["uuid"] for e in bob.ok("GET", "/v2/endpoints?role=any")]
    assert bob.submit(endpoint.id, bob.function()), "whom it maps is its own decision"


def test_the_list_shows_one_s_own_and_with_role_any_the_public_ones(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    assert endpoint.id in [e["uuid"] for e in endpoint.owner.ok("GET", "/v2/endpoints")]
    assert endpoint.id not in [e["uuid"] for e in alice.ok("GET", "/v2/endpoints")]
    assert endpoint.id in [e["uuid"] for e in alice.ok("GET", "/v2/endpoints?role=any")]


def test_status_follows_heartbeats_and_the_goodbye(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    until(lambda: status(alice, endpoint) == "online", "online after the first heartbeat")
    endpoint.beat(0)
    until(lambda: status(alice, endpoint) == "offline", "offline after the goodbye")


def test_silence_makes_an_endpoint_offline(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site(period_s=0.3)
    until(lambda: status(alice, endpoint) == "online", "online")
    until(lambda: status(alice, endpoint) == "offline", "offline after three missed heartbeats", timeout_s=6)
    endpoint.beat(30)
    until(lambda: status(alice, endpoint) == "online", "online again")


def test_the_second_notice_of_a_failed_start_does_not_end_the_endpoint(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    until(lambda: status(alice, endpoint) == "online", "online")
    endpoint.notice(endpoint.id, error="(SystemExit) 77", heartbeat_period=0)
    time.sleep(0.3)  # nothing to wait for: the point is that nothing happens
    assert status(alice, endpoint) == "online"


def test_a_lock_throws_the_agent_out_and_keeps_it_out_for_a_while(site: MakeEndpoint) -> None:
    endpoint = site()
    assert endpoint.peer is not None
    told = endpoint.owner.ok("POST", f"/v3/endpoints/{endpoint.id}/lock")
    assert told["lock_expiration_timestamp"] > time.time()
    with pytest.raises(pika.exceptions.AMQPError):
        endpoint.peer.connection.sleep(10)
    refused = endpoint.owner.error("PUT", f"/v3/endpoints/{endpoint.id}", json=registration())
    assert refused["http_status_code"] == 423
    old_url = endpoint.answer["command_queue_info"]["connection_url"]
    until(lambda: time.time() > told["lock_expiration_timestamp"], "the lock expires", timeout_s=LOCK_S + 1)
    endpoint.register().connect()
    assert endpoint.answer["command_queue_info"]["connection_url"] != old_url, "the old password is worthless"


def test_deleting_an_endpoint_fails_what_waits_for_it(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    assert endpoint.owner.ok("DELETE", f"/v2/endpoints/{endpoint.id}") == {"result": 302}
    with closing(stream(alice, submitted)) as reader:
        result = reader.result()
    assert result is not None
    assert result.error_details is not None
    assert "deleted" in result.data
    assert alice.task(task_ids(submitted)[0])["status"] == "failed"
    assert alice.error("GET", f"/v2/endpoints/{endpoint.id}")["code"] == "ENDPOINT_NOT_FOUND"


def test_a_stranger_is_told_once_what_to_do(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    refused = alice.error("DELETE", f"/v2/endpoints/{endpoint.id}")
    error = ComputeAPIError(403, refused["code"], refused["detail"])
    assert error.for_user().count("Ask its owner") == 1


def test_deleting_an_endpoint_leaves_no_queue_of_it(site: MakeEndpoint, alice: Http, quick_relay: Relay) -> None:
    endpoint = site()
    alice.submit(endpoint.id, alice.function())
    command = endpoint.command()
    assert command is not None
    assert quick_relay.broker is not None
    endpoint.owner.ok("DELETE", f"/v2/endpoints/{endpoint.id}")
    with closing(pika.BlockingConnection(pika.URLParameters(quick_relay.broker.amqp.reveal()))) as connection:
        for queue in (f"{endpoint.id}.commands", f"{command.uep_id}.tasks"):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
                connection.channel().queue_declare(queue, passive=True)


def test_the_allow_list_is_shown_and_kept(site: MakeEndpoint, alice: Http) -> None:
    function_id = alice.function(public=True)
    endpoint = site(allowed_functions=[function_id])
    told = alice.ok("GET", f"/v3/endpoints/{endpoint.id}/allowed_functions")
    assert told == {"endpoint_id": endpoint.id, "restricted": True, "functions": [function_id]}
    other = alice.function()
    path = f"/v3/endpoints/{endpoint.id}/submit"
    assert alice.error("POST", path, json={"tasks": {other: ["x"]}})["code"] == "FUNCTION_NOT_PERMITTED"
    assert alice.submit(endpoint.id, function_id)


def test_a_broken_schema_is_reported_at_registration(alice: Http) -> None:
    schema = {"type": "no such type"}
    told = alice.ok("POST", "/v3/endpoints", json=registration(user_config_schema=schema))
    assert "user_config_schema" in told["warnings"][0]


def test_an_old_single_user_endpoint_takes_tasks_itself(people: People) -> None:
    """Before 4.0 without multi_user there are no commands, and its reports may use the results queue."""
    owner = people("site@example.org")
    old = registration(metadata={"endpoint_version": "2.31.0", "user_config_template": ""})
    del old["multi_user"]
    told = owner.ok("POST", "/v3/endpoints", json=old)
    endpoint_id = told["endpoint_id"]
    with Peer(told["command_queue_info"]["connection_url"]) as commands, FakeUep(told) as agent:
        agent.publish(
            told["result_queue_info"],
            b'\x01{"message_type":"ep_status_report","data":{"endpoint_id":"%s",'
            b'"ep_status_report":{"task_id":-2,"info":{"heartbeat_period":30}},"task_statuses":{}}}'
            % endpoint_id.encode(),
        )
        path = f"/v2/endpoints/{endpoint_id}/status"
        until(lambda: owner.ok("GET", path)["status"] == "online", "its wrapped report counts")
        submitted = owner.submit(endpoint_id, owner.function())
        task = agent.take()
        agent.answer(task.task_id)
        with closing(stream(owner, submitted)) as reader:
            result = reader.result()
        assert result is not None
        assert result.task_id == task.task_id
        assert commands.next_message(told["command_queue_info"]["queue"], wait_s=0.3) is None
        body = {"tasks": {owner.function(): ["x"]}, "user_endpoint_config": {"a": 1}}
        assert owner.error("POST", f"/v3/endpoints/{endpoint_id}/submit", json=body)["http_status_code"] == 422


def test_an_endpoint_before_3_registers_over_v2_with_its_own_id(people: People, quick_relay: Relay) -> None:
    owner, wanted = people("site@example.org"), new_id()
    body = {
        "endpoint_uuid": wanted,
        "endpoint_name": "old",
        "metadata": {"endpoint_version": "2.0.3", "config": {"x": 1}},
    }
    told = owner.ok("POST", "/v2/endpoints", json=body)
    assert told["endpoint_id"] == wanted
    assert told["task_queue_info"]["queue"] == f"{wanted}.tasks"
