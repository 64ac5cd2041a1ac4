"""Many log in at one moment: nobody waits for the others' starts, and each is served as themselves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from mep import Client
from mep.relay.auth.local import make_token
from mep.relay.store.engine import default_url
from mep.serialize import PureSourceTextInspect, Serializer
from support.relay import Relay
from support.rigs import MakeEndpoint
from support.wait import until

pytestmark = pytest.mark.timeout(120)

FIRST_UID = 21001  # of the sandbox's crowd
CROWD = 40
#: A second of each start is spent waiting: one after the other, they would take a second for each user.
SLOW_START = "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\nendpoint_setup: sleep 1\n"


def user_id() -> int:
    """Runs in each user endpoint."""
    import os

    return os.getuid()


def client_of(relay: Relay, number: int) -> Client:
    token = make_token(default_url(relay.data_dir), f"u{number:03}@example.org", lifetime_s=3600)
    serializer = Serializer(PureSourceTextInspect)
    return Client(relay_url=relay.url, token=token.reveal(), do_version_check=False, serializer=serializer)


def result_of(client: Client, task: str) -> Any:
    until(lambda: not client.get_task(task)["pending"], "the task has ended", timeout_s=60, every_s=0.1)
    return client.get_task(task)["result"]


def test_forty_users_at_once_do_not_wait_for_each_others_starts(endpoint: MakeEndpoint, relay: Relay) -> None:
    site = endpoint("storm", template=SLOW_START)
    endpoint_id = site.id
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(client_of(relay, number))) for number in range(1, CROWD + 2)]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        functions = list(pool.map(lambda client: client.register_function(user_id), clients))

        def submit(number: int) -> str:
            return clients[number].run(endpoint_id=endpoint_id, function_id=functions[number])

        began = time.monotonic()
        assert result_of(clients[CROWD], submit(CROWD)) == FIRST_UID + CROWD
        alone_s = time.monotonic() - began
        assert alone_s > 1.0
        began = time.monotonic()
        tasks = list(pool.map(submit, range(CROWD)))
        uids = [result_of(clients[number], task) for number, task in enumerate(tasks)]
        crowd_s = time.monotonic() - began
    assert uids == list(range(FIRST_UID, FIRST_UID + CROWD))
    assert crowd_s < alone_s * CROWD / 2, f"{crowd_s:.1f} s for {CROWD} users, {alone_s:.1f} s for one"
