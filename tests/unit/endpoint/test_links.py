"""The broker's address, with another port if the settings ask for one."""

from __future__ import annotations

import pytest

from mep.base.secrets import Secret
from mep.endpoint.links import with_port


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("amqp://u:p@host:5672/vh?heartbeat=30", "amqp://u:p@host:443/vh?heartbeat=30"),
        ("amqps://u:p@host/%2F", "amqps://u:p@host:443/%2F"),
        ("amqp://u:p@[::1]:5672/", "amqp://u:p@[::1]:443/"),
        ("amqp://u:p@[::1]/", "amqp://u:p@[::1]:443/"),
        ("amqp://host", "amqp://host:443"),
    ],
)
def test_the_port_is_replaced(url: str, wanted: str) -> None:
    assert with_port(Secret(url), 443).reveal() == wanted


def test_without_a_port_the_address_stays() -> None:
    assert with_port(Secret("amqp://h:1/x"), None).reveal() == "amqp://h:1/x"
