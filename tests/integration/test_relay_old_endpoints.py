"""Multi-user endpoints of older releases: before 3.1 their reports come through the results queue."""

from __future__ import annotations

import pika
import pytest

from support.fake_endpoint import Peer, registration
from support.fleet import MakeEndpoint, People, alice, people, quick_relay, site
from support.wait import until

__all__ = ["alice", "people", "quick_relay", "site"]

REPORT = (
    b'\x01{"message_type":"ep_status_report","data":{"endpoint_id":"%s",'
    b'"global_state":{"heartbeat_period":30},"task_statuses":{}}}'
)


def test_an_endpoint_before_3_1_comes_online_by_the_results_queue(people: People) -> None:
    owner = people("site@example.org")
    told = owner.ok("POST", "/v3/endpoints", json=registration(metadata={"endpoint_version": "2.31.0"}))
    endpoint_id = told["endpoint_id"]
    with Peer(told["command_queue_info"]["connection_url"]) as agent:
        agent.publish(told["result_queue_info"], REPORT % endpoint_id.encode())
        path = f"/v2/endpoints/{endpoint_id}/status"
        until(lambda: owner.ok("GET", path)["status"] == "online", "its report counts")


def test_a_newer_one_may_not_write_there(site: MakeEndpoint) -> None:
    endpoint = site()
    assert endpoint.peer is not None
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        endpoint.peer.publish(endpoint.answer["result_queue_info"], REPORT % endpoint.id.encode())
