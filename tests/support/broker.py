"""A real broker for tests: one private RabbitMQ node per session, a virtual host of its own per test.

MEP_TEST_BROKER (and MEP_TEST_BROKER_API) name a running node to use instead: an AMQP and a management URL, both
with an administrator's user and password.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
import urllib3

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.rabbitfiles import find_programs

_RUNNER = Path(__file__).with_name("brokernode.py")


@pytest.fixture(scope="session")
def broker_node() -> Iterator[BrokerAddress]:
    """The session's node. Most tests want `broker`."""
    if url := os.environ.get("MEP_TEST_BROKER"):
        yield BrokerAddress.of_url(url, management_url=os.environ.get("MEP_TEST_BROKER_API", ""))
        return
    if shutil.which("rabbitmq-server") is None:
        pytest.skip("needs RabbitMQ: apt install rabbitmq-server")
    find_programs()
    directory = tempfile.mkdtemp(prefix="mep-broker-", dir="/var/tmp")
    with subprocess.Popen(
        [sys.executable, str(_RUNNER), directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        line = runner.stdout.readline()
        assert line, "the broker node did not start"
        urls = json.loads(line)
        yield BrokerAddress(Secret(urls["amqp"]), Secret(urls["management"]))
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def broker(broker_node: BrokerAddress) -> Iterator[BrokerAddress]:
    """A virtual host that is this test's alone, on the session's node."""
    with temporary_vhost(broker_node) as address:
        yield address


class temporary_vhost:
    """Make a virtual host, give its address, remove it at the end."""

    def __init__(self, node: BrokerAddress) -> None:
        name = f"test-{new_id()[:8]}"
        self._node, self._name = node, name
        url = urlsplit(node.amqp.reveal())._replace(path=f"/{name}").geturl()
        self._address = BrokerAddress(Secret(url), node.management)

    def __enter__(self) -> BrokerAddress:
        make_vhost(self._node, self._name)
        return self._address

    def __exit__(self, *_: object) -> None:
        manage(self._node, "DELETE", f"/vhosts/{self._name}")


def make_vhost(node: BrokerAddress, name: str) -> None:
    """Make an empty virtual host in which the administrator may do everything."""
    manage(node, "PUT", f"/vhosts/{name}")
    user = quote(unquote(urlsplit(node.amqp.reveal()).username or ""), safe="")
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    manage(node, "PUT", f"/permissions/{name}/{user}", everything)


def manage(node: BrokerAddress, method: str, path: str, body: object = None) -> object:
    """Make one request of the management API as the administrator; return the decoded answer."""
    parts = urlsplit(node.management.reveal())
    headers = urllib3.make_headers(basic_auth=f"{unquote(parts.username or '')}:{unquote(parts.password or '')}")
    url = f"{parts.scheme}://{parts.hostname}:{parts.port}/api{path}"
    with urllib3.PoolManager() as pool:
        answer = pool.request(
            method, url, headers={**headers, "Content-Type": "application/json"}, body=json.dumps(body or {})
        )
    assert answer.status < 300, f"{method} {path}: {answer.status} {answer.data!r}"
    return json.loads(answer.data) if answer.data else None
