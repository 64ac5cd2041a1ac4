"""From one broker URL to everything that is derived from it."""

from __future__ import annotations

import pytest

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.relay.brokeraddress import BrokerAddress


@pytest.mark.parametrize(
    ("broker", "management"),
    [
        ("amqp://u:p%40@host", "http://u:p%40@host:15672"),
        ("amqp://u:p@host:5673/vh", "http://u:p@host:15672"),
        ("amqps://u:p@host:443/vh", "https://u:p@host:15671"),
        ("amqp://u:p@[::1]:5672", "http://u:p@[::1]:15672"),
    ],
)
def test_the_management_url_is_derived(broker: str, management: str) -> None:
    assert BrokerAddress.of_url(broker).management.reveal() == management


def test_a_management_url_without_an_account_has_the_brokers() -> None:
    address = BrokerAddress.of_url("amqp://u:p@host", management_url="https://other:8443/prefix")
    assert address.management.reveal() == "https://u:p@other:8443/prefix"
    address = BrokerAddress.of_url("amqp://u:p@host", management_url="https://a:b@other")
    assert address.management.reveal() == "https://a:b@other"


@pytest.mark.parametrize(
    ("url", "vhost"), [("amqp://h", "/"), ("amqp://h/", "/"), ("amqp://h/%2F", "/"), ("amqp://h/a%2Fb", "a/b")]
)
def test_the_vhost_is_decoded(url: str, vhost: str) -> None:
    assert BrokerAddress.of_url(url).vhost == vhost


def test_a_client_gets_its_own_account_and_no_parameter_of_ours() -> None:
    address = BrokerAddress.of_url(
        "amqps://admin:top-secret@host:5671/vh?cacertfile=/etc/ca", client_host="public:443"
    )
    url = address.client_url("uep.1", Secret("a/b@c:d")).reveal()
    assert url == "amqps://uep.1:a%2Fb%40c%3Ad@public:443/vh?heartbeat=30"


@pytest.mark.parametrize("url", ["", "host", "http://u:p@host", "amqp://", "amqp://u:hush@"])
def test_what_is_no_broker_url_is_told_without_the_password(url: str) -> None:
    with pytest.raises(InputError) as caught:
        BrokerAddress.of_url(url)
    assert caught.value.code is Code.CONFIG_INVALID
    assert "hush" not in caught.value.admin_text
