"""Results are published with exactly the arguments that the relay gave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mep.base.secrets import Secret
from mep.broker import Publisher
from mep.endpoint.outbox import Route
from mep.wire.command import QueueInfo


class _Recorder(Publisher):
    """Keeps what it is to publish."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        mandatory: bool = True,
    ) -> asyncio.Future[None]:
        self.calls.append((exchange, routing_key, body, headers, dict(properties or {}), mandatory))
        return asyncio.get_running_loop().create_future()


async def test_exchange_key_flags_and_properties_are_the_relays() -> None:
    given = {
        "exchange": "e",
        "routing_key": "k.results",
        "mandatory": False,
        "properties": {"delivery_mode": 1, "priority": 3},
    }
    route = Route(QueueInfo(connection_url=Secret(""), exchange="x", queue="q", queue_publish_kwargs=given))
    recorder = _Recorder()
    route.publish(recorder, b"body")
    assert recorder.calls == [("e", "k.results", b"body", None, {"delivery_mode": 1, "priority": 3}, False)]


async def test_without_arguments_they_go_to_the_queue_lasting_and_returned_if_lost() -> None:
    route = Route(QueueInfo(connection_url=Secret(""), exchange="", queue="q"))
    recorder = _Recorder()
    route.publish(recorder, b"body")
    assert recorder.calls == [("", "q", b"body", None, {"delivery_mode": 2}, True)]
