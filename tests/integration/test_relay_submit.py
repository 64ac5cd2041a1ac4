"""A submit: what is answered, refused, sent to the endpoint, and not done twice."""

from __future__ import annotations

import json
import socket
import time
from contextlib import closing
from typing import Any

import pytest

from mep.base.ids import new_id
from mep.relay.brokeraddress import BrokerAddress
from mep.wire import signing
from mep.wire.keys import PublicKey
from support.fake_endpoint import FakeEndpoint, Http, submission
from support.fleet import (
    MakeEndpoint,
    People,
    alice,
    broker_frozen,
    frozen,
    people,
    quick_relay,
    site,
    stream,
    task_ids,
)
from support.relay import Relay
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]

SCHEMA = {
    "type": "object",
    "properties": {"nodes": {"type": "integer", "maximum": 4}, "account": {"type": "string"}},
    "additionalProperties": False,
}


def test_ids_come_in_the_order_of_the_payloads_and_all_are_uuids(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f, g = site(), alice.function(), alice.function()
    body = {"tasks": {f: [f"1\n{i}1\nk" for i in range(5)], g: ["1\na1\nk"]}, "create_queue": True}
    told = alice.ok("POST", f"/v3/endpoints/{endpoint.id}/submit", json=body)
    assert [len(told["tasks"][f]), len(told["tasks"][g])] == [5, 1]
    for name in ("task_group_id", "request_id", "endpoint_id"):
        assert len(told[name]) == 36
    with endpoint.start_uep() as uep:
        taken = [uep.take() for _ in range(6)]
    assert [t.task_id for t in taken] == task_ids(told)
    assert [t.task_buffer for t in taken][:2] == ["5\n01\nhi1\n01\nk", "5\n01\nhi1\n11\nk"]


def test_the_start_command_is_signed_and_says_who_and_what(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    runtime = {"python": {"version": "3.11.2", "version_tuple": [3, 11, 2]}, "platform": {"node": "laptop"}}
    submitted = alice.submit(endpoint.id, alice.function(), user_endpoint_config={"a": 1}, user_runtime=runtime)
    command = endpoint.command()
    assert command is not None
    assert command.properties.content_type == "application/json"
    assert abs(command.properties.timestamp - time.time()) < 60
    said = command.document
    assert said["command"] == "cmd_start_endpoint"
    assert said["kwargs"]["user_opts"] == {"a": 1}
    assert said["kwargs"]["user_runtime"] == runtime
    assert said["kwargs"]["name"] == f"uep.{endpoint.id}.{command.uep_id}"
    assert said["globus_username"] == "alice@example.org"
    (identity,) = said["globus_identity_set"]
    assert identity["status"] == "used"
    assert identity["id"] == identity["sub"] == said["globus_effective_identity"]
    keys = {k["kid"]: PublicKey(**k) for k in endpoint.answer["mep"]["keys"]}
    token = command.properties.headers["mep-signature"]
    claims = signing.verify(token, keys, audience=endpoint.id, now=time.time())
    assert claims.sha256 == signing.body_digest(command.body)
    assert (claims.uep, claims.ids, claims.jti) == (command.uep_id, [identity], submitted["request_id"])


def test_same_options_same_user_endpoint_whatever_the_order_or_the_laptop(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f = site(), alice.function()
    alice.submit(endpoint.id, f, user_endpoint_config={"a": 1, "b": 2}, user_runtime={"platform": {"node": "x"}})
    with endpoint.start_uep():
        alice.submit(
            endpoint.id, f, user_endpoint_config={"b": 2, "a": 1}, user_runtime={"platform": {"node": "y"}}
        )
        assert endpoint.command(wait_s=0.5) is None
        alice.submit(endpoint.id, f, user_endpoint_config={"a": 2, "b": 2})
        assert endpoint.command() is not None


def test_resources_and_serializers_travel_as_headers(site: MakeEndpoint, alice: Http) -> None:
    endpoint, wanted = site(), {"num_nodes": 2}
    names = ["globus_compute_sdk.serialize.concretes.JSONData"]
    f = alice.function()
    alice.submit(endpoint.id, f, resource_specification=wanted, result_serializers=names)
    with endpoint.start_uep() as uep:
        task = uep.take()
        headers = uep.properties.headers
    assert (headers["function_uuid"], headers["task_uuid"]) == (f, task.task_id)
    assert json.loads(headers["resource_specification"]) == wanted
    assert headers["result_serializers"] == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes": 5}, ["$.nodes", "5", "at most 4"]),
        ({"nodes": "two"}, ["$.nodes", '"two"', "integer"]),
        ({"nods": 2}, ["'nods'", "nodes"]),
        ({"parent_config": {}}, ["OPTIONS_RESERVED", "parent_config"]),
        ([1], ["wanted an object"]),
    ],
)
def test_options_against_the_schema_name_path_value_and_wish(
    site: MakeEndpoint, alice: Http, options: Any, words: list[str]
) -> None:
    endpoint = site(user_config_schema=SCHEMA)
    body = submission(alice.function(), user_endpoint_config=options)
    refused = alice.error("POST", f"/v3/endpoints/{endpoint.id}/submit", json=body)
    assert (refused["http_status_code"], refused["code"]) == (422, "SEMANTICALLY_INVALID")
    for word in words:
        assert word in refused["detail"]
    assert endpoint.command(wait_s=0.2) is None, "before any process starts"


def test_what_is_not_the_caller_s_is_refused(site: MakeEndpoint, people: People) -> None:
    endpoint, alice, bob = site(), people("alice@example.org"), people("bob@example.org")
    group = alice.submit(endpoint.id, alice.function())["task_group_id"]
    path = f"/v3/endpoints/{endpoint.id}/submit"
    refused = bob.error("POST", path, json=submission(bob.function(), task_group_id=group))
    assert refused["code"] == "TASK_GROUP_ACCESS_FORBIDDEN"
    assert bob.error("GET", f"/v2/taskgroup/{group}")["code"] == "TASK_GROUP_ACCESS_FORBIDDEN"
    refused = bob.error("POST", path, json=submission(alice.function()))
    assert refused["code"] == "FUNCTION_ACCESS_FORBIDDEN"
    assert bob.error("POST", path, json=submission(new_id()))["code"] == "FUNCTION_NOT_FOUND"
    task = alice.submit(endpoint.id, alice.function())["tasks"].popitem()[1][0]
    assert bob.error("GET", f"/v2/tasks/{task}")["code"] == "TASK_NOT_FOUND"


def test_a_task_above_the_cap_is_refused(site: MakeEndpoint, alice: Http) -> None:
    body = submission(alice.function(), "x" * (21 * 1024 * 1024))
    refused = alice.error("POST", f"/v3/endpoints/{site().id}/submit", json=body)
    assert (refused["http_status_code"], refused["code"]) == (413, "TASK_PAYLOAD_TOO_LARGE")


def test_a_group_is_kept_over_submits_and_lists_its_tasks(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f, group = site(), alice.function(), new_id()
    ids = [task_ids(alice.submit(endpoint.id, f, task_group_id=group))[0] for _ in range(3)]
    told = alice.ok("GET", f"/v2/taskgroup/{group}")
    assert told["taskgroup_id"] == group
    assert {t["id"] for t in told["tasks"]} == set(ids)


def test_sdk_2_submits_over_v2(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f, missing, group = site(), alice.function(), new_id(), new_id()
    body = {
        "task_group_id": group,
        "create_websocket_queue": True,
        "tasks": [[f, endpoint.id, "1\na1\nb"], [missing, endpoint.id, "x"], [f, missing, "x"]],
    }
    told = alice.ok("POST", "/v2/submit", json=body)
    assert told["task_group_id"] == group
    assert [r["status"] for r in told["results"]] == ["Failed", "Failed", "Failed"], "one endpoint's tasks are one"
    body["tasks"] = [[f, endpoint.id, "1\na1\nb"], [f, missing, "x"]]
    good, bad = alice.ok("POST", "/v2/submit", json=body)["results"]
    assert (good["status"], bad["status"], bad["http_status_code"]) == ("Success", "Failed", 404)
    with endpoint.start_uep() as uep:
        assert uep.take().task_id == good["task_uuid"]


# ---- not twice ----


def test_an_answered_submit_is_new_when_it_comes_again(site: MakeEndpoint, alice: Http) -> None:
    endpoint, body = site(), submission(alice.function(), task_group_id=new_id())
    path = f"/v3/endpoints/{endpoint.id}/submit"
    first, second = (alice.ok("POST", path, json=body) for _ in range(2))
    assert task_ids(first) != task_ids(second)


def test_a_repeat_with_a_key_gets_the_stored_answer(site: MakeEndpoint, alice: Http) -> None:
    endpoint, body = site(), submission(alice.function())
    path, key = f"/v3/endpoints/{endpoint.id}/submit", {"Idempotency-Key": new_id()}
    first, second = (alice.ok("POST", path, json=body, headers=key) for _ in range(2))
    assert first == second
    changed = {**body, "create_queue": False}
    assert alice.error("POST", path, json=changed, headers=key)["http_status_code"] == 422
    with endpoint.start_uep() as uep:
        assert uep.take().task_id == task_ids(first)[0]
        assert uep.next_message(uep.creds["task_queue_info"]["queue"], wait_s=0.3, exclusive=True) is None


def raw_submit(relay: Relay, endpoint: FakeEndpoint, token: str, body: bytes) -> socket.socket:
    """Send a submit and return the socket, the answer unread."""
    sock = socket.create_connection(("127.0.0.1", relay.port))
    head = (
        f"POST /v3/endpoints/{endpoint.id}/submit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body)
    return sock


def test_a_repeat_of_a_submit_nobody_heard_the_answer_of_joins_it(
    quick_relay: Relay, site: MakeEndpoint, alice: Http, broker_node: BrokerAddress
) -> None:
    """The caller leaves while its tasks are stored and the broker is slow; its repeat is the same submit."""
    endpoint, group = site(), new_id()
    body = json.dumps(submission(alice.function(), task_group_id=group)).encode()
    path = f"/v3/endpoints/{endpoint.id}/submit"
    alice.ok("POST", path, json=submission(alice.function(), task_group_id=group))
    with endpoint.start_uep() as uep:
        uep.take()
        with broker_frozen(broker_node):
            leaver = raw_submit(quick_relay, endpoint, quick_relay.token("alice@example.org"), body)
            until(lambda: len(alice.ok("GET", f"/v2/taskgroup/{group}")["tasks"]) == 2, "it is stored")
            leaver.close()
        told = alice.ok("POST", path, content=body)
        assert len(alice.ok("GET", f"/v2/taskgroup/{group}")["tasks"]) == 2, "the repeat added none"
        assert uep.take().task_id == task_ids(told)[0]
        again = alice.ok("POST", path, content=body)
        assert task_ids(again) != task_ids(told), "now it was answered: the same again is a new submit"
        assert uep.take().task_id == task_ids(again)[0]


def test_requests_of_callers_who_left_are_not_done_after_the_repeat(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint, group = site(), new_id()
    body = json.dumps(submission(alice.function(), task_group_id=group)).encode()
    token = quick_relay.token("alice@example.org")
    with frozen(quick_relay):
        for _ in range(3):
            raw_submit(quick_relay, endpoint, token, body).close()
    told = alice.ok("POST", f"/v3/endpoints/{endpoint.id}/submit", content=body)
    members = alice.ok("GET", f"/v2/taskgroup/{group}")["tasks"]
    assert [t["id"] for t in members] == task_ids(told), "four requests, one task"
    assert quick_relay.program is not None
    assert "Traceback" not in quick_relay.program.text()


def test_two_callers_who_say_the_same_at_the_same_time_are_two_submits(
    quick_relay: Relay, site: MakeEndpoint, alice: Http
) -> None:
    endpoint = site()
    body = json.dumps(submission(alice.function(), task_group_id=new_id())).encode()
    token = quick_relay.token("alice@example.org")
    with frozen(quick_relay):
        sockets = [raw_submit(quick_relay, endpoint, token, body) for _ in range(2)]
    for sock in sockets:
        assert sock.recv(12) == b"HTTP/1.1 200"
        sock.close()
    group = json.loads(body)["task_group_id"]
    assert len(alice.ok("GET", f"/v2/taskgroup/{group}")["tasks"]) == 2


# ---- results over HTTP meanwhile ----


def test_a_task_s_document_goes_from_pending_to_success(site: MakeEndpoint, alice: Http) -> None:
    endpoint = site()
    submitted = alice.submit(endpoint.id, alice.function())
    (task_id,) = task_ids(submitted)
    assert alice.task(task_id)["status"] == "waiting-for-ep"
    with endpoint.start_uep() as uep:
        until(lambda: alice.task(task_id)["status"] == "running", "running once the user endpoint is up")
        uep.answer(uep.take().task_id, '00\nwörds \\ "quoted"\n')
    until(lambda: alice.task(task_id)["status"] == "success", "done")
    found = alice.ok("POST", "/v2/batch_status", json={"task_ids": [task_id, new_id()]})["results"]
    assert found[task_id]["result"] == '00\nwörds \\ "quoted"\n'
    assert float(found[task_id]["completion_t"]) > 0
    assert found[task_id]["details"]["task_transitions"]["execution-start"] == 1_700_000_000
    with closing(stream(alice, submitted)) as reader:
        result = reader.result()
        assert reader.properties.timestamp
    assert result is not None
    assert result.task_id == task_id


def test_ids_may_be_spelled_in_capitals(site: MakeEndpoint, alice: Http) -> None:
    endpoint, f = site(), alice.function()
    told = alice.ok("POST", f"/v3/endpoints/{endpoint.id.upper()}/submit", json={"tasks": {f.upper(): ["x"]}})
    ((given, (task_id,)),) = told["tasks"].items()
    assert given == f.upper(), "as the caller gave it"
    assert alice.task(task_id.upper())["task_id"] == task_id
    with endpoint.start_uep() as uep:
        uep.take()
        assert uep.properties.headers["function_uuid"] == f
