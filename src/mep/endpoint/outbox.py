"""Results on their way to the broker: published with confirm, again and again until the broker has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from mep.base.errors import MepError
from mep.broker import Publisher
from mep.broker.backoff import Backoff
from mep.engines.base import Outcome
from mep.wire.command import QueueInfo
from mep.wire.seal import Sealer

log = logging.getLogger(__name__)


class Route:
    """Where and how to publish, as the relay said: `queue_publish_kwargs` are the call's arguments as they are."""

    def __init__(self, info: QueueInfo) -> None:
        arguments = info.queue_publish_kwargs
        self.exchange = str(arguments.get("exchange", info.exchange))
        self.routing_key = str(arguments.get("routing_key", info.queue))
        self.mandatory = bool(arguments.get("mandatory", True))
        given = arguments.get("properties")
        self.properties: dict[str, Any] = dict(given) if isinstance(given, dict) else {"delivery_mode": 2}

    def publish(self, publisher: Publisher, body: bytes) -> asyncio.Future[None]:
        """Hand `body` to the broker; the future ends with its confirm."""
        return publisher.publish(
            self.exchange, self.routing_key, body, properties=self.properties, mandatory=self.mandatory
        )


class Outbox:
    """Publishes outcomes, sealed where there is a `sealer`; `on_confirmed` hears each task id once the broker has
    its result."""

    def __init__(self, publisher: Publisher, route: Route, on_confirmed: Callable[[str], None]) -> None:
        self._publisher, self._route = publisher, route
        self._on_confirmed = on_confirmed
        self._backoff = Backoff(0.2, 10.0)
        self._troubled = False
        self._closed = False
        self.sealer: Sealer | None = None
        self.unconfirmed = 0

    def send(self, outcome: Outcome) -> None:
        """Send now, or as soon as the broker is there; try again until it is confirmed."""
        self.unconfirmed += 1
        self._publish(outcome)

    def close(self) -> None:
        """Try no more; what is not confirmed stays in the journal."""
        self._closed = True

    def _publish(self, outcome: Outcome) -> None:
        if self._closed:
            return
        body = outcome.body if self.sealer is None else self.sealer.seal(outcome.body)
        future = self._route.publish(self._publisher, body)
        future.add_done_callback(lambda done: self._answered(outcome, done))

    def _answered(self, outcome: Outcome, done: asyncio.Future[None]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self.unconfirmed -= 1
            if self._troubled:
                self._troubled = False
                self._backoff.reset()
                log.info("results: the broker takes them again")
            self._on_confirmed(outcome.task_id)
            return
        if not self._troubled:
            self._troubled = True
            text = error.for_admin() if isinstance(error, MepError) else repr(error)
            log.error("results: the broker does not take them, trying again: %s", text)
        asyncio.get_running_loop().call_later(self._backoff.next_s(), self._publish, outcome)
