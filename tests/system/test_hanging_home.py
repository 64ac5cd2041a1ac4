"""A home whose file system does not answer: its user is told in time, nobody else waits, root never goes there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pika
import pytest
import urllib3

from mep.base.codes import Code
from mep.host.waiting import waits_for_files
from mep.relay.brokeraddress import BrokerAddress
from mep.sdk.errors import TaskExecutionFailed
from support.hangingfs import Freezer, freezable_home, silent_home
from support.relay import Relay
from support.remote import WAIT_S, assert_refused, by_source, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB = "alice@example.org", "bob@example.org"
HOME, UID = Path("/home/alice"), 20001
START_S = 4
STOP_S = 25  # what a stop may take; the file system stays away for longer


def test_a_home_that_hangs_costs_its_user_the_start_and_nobody_else_anything(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    """Its process cannot even be killed. The daemon looks at the home neither before nor after."""
    site = endpoint("nfs", config={"start_timeout_s": START_S})
    with silent_home(HOME, UID) as home:
        sdk_env(ALICE)
        with by_source(site.id) as alices:
            hanging = alices.submit(process_id)
            until(lambda: home.asked, "it waits for the home")
            sdk_env(BOB)
            with by_source(site.id) as bobs:
                bobs.submit(process_id).result(WAIT_S)
            assert not hanging.done(), "nobody waits for another"
            with pytest.raises(TaskExecutionFailed) as caught:
                hanging.result(WAIT_S)
            assert_refused(str(caught.value), Code.START_TIMEOUT)
            assert "file system" in str(caught.value)
            assert [uep["state"] for uep in site.user_endpoints() if uep["user"] == "alice"] == ["stuck"]
            with pytest.raises(TaskExecutionFailed) as caught:
                alices.submit(process_id).result(WAIT_S)
            assert str(caught.value).startswith("PROCESS_STUCK")
        began = time.monotonic()
        site.mep("stop", "nfs")
        assert time.monotonic() - began < STOP_S
        assert set(home.asked) == {UID}, "nobody else looked, root least of all"
    until(lambda: not titled("nfs"), "it ends when the file system answers")
    assert "Traceback" not in site.log_text()


@pytest.fixture
def home(open_dir: Path) -> Iterator[Freezer]:
    with freezable_home(HOME, open_dir / "home.img", UID) as made:
        yield made


class Connections:
    """The connections of a user endpoint, as the broker's management knows them."""

    def __init__(self, broker: BrokerAddress, uep_id: str) -> None:
        api = broker.management.reveal()
        parts = urllib3.util.parse_url(api)
        self._base = f"{parts.scheme}://{parts.host}:{parts.port}/api/connections"
        self._headers = urllib3.make_headers(basic_auth=parts.auth or "")
        self._http = urllib3.PoolManager()
        self._amqp, self._uep_id = broker.amqp.reveal(), uep_id

    def names(self) -> list[str]:
        """Return what is known of them; the broker's statistics learn of one after seconds."""
        found = json.loads(self._http.request("GET", self._base, headers=self._headers).data)
        return [one["name"] for one in found if one.get("user") == f"uep.{self._uep_id}"]

    def cut(self) -> None:
        """Close them, as the broker does with one that has been silent for a minute."""
        for name in self.names():
            self._http.request("DELETE", f"{self._base}/{quote(name, safe='')}", headers=self._headers)
        with closing(pika.BlockingConnection(pika.URLParameters(self._amqp))) as connection:
            channel = connection.channel()
            queue = f"{self._uep_id}.tasks"
            until(lambda: not channel.queue_declare(queue, passive=True).method.consumer_count, "nobody consumes")


def test_a_home_that_hangs_later_is_named_when_somebody_asks_for_its_user_endpoint(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, relay: Relay, home: Freezer
) -> None:
    site = endpoint("frozen", config={"start_timeout_s": 10})
    sdk_env(ALICE)
    with by_source(site.id) as alices:
        alices.submit(process_id).result(WAIT_S)
        uep = site.user_endpoints()[0]
        assert relay.broker is not None
        connections = Connections(relay.broker, uep["uep_id"])
        until(connections.names, "they are known", timeout_s=30.0)
        home.freeze()
        first = alices.submit(process_id)
        until(lambda: waits_for_files(uep["pid"]), "it waits for its journal")
        connections.cut()
        second = alices.submit(process_id)  # within a second of the first, which found it at work
        for future in (first, second):
            with pytest.raises(TaskExecutionFailed) as caught:
                future.result(60)
            assert str(caught.value).startswith("PROCESS_STUCK")
        sdk_env(BOB)
        with by_source(site.id) as bobs:
            bobs.submit(process_id).result(WAIT_S)
        home.thaw()
        until(lambda: [uep["user"] for uep in site.user_endpoints()] == ["bob"], "it is gone at last")
        assert alices.submit(process_id).result(WAIT_S)
    assert "Traceback" not in site.log_text()
