"""The user endpoint's way to the broker: one connection for each distinct set of credentials (usually one)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mep.base.secrets import Secret
from mep.broker import BrokerConnection, Consumer, Delivery, Publisher, State
from mep.endpoint.outbox import Route
from mep.wire.command import AmqpCreds, QueueInfo

log = logging.getLogger(__name__)


class Links:
    """Consumer and publishers that the credentials name. `refresh` takes newer credentials at any time.

    Our relay gives one URL for everything; a stock service may give three, and then there are three connections.
    """

    def __init__(
        self,
        creds: AmqpCreds,
        *,
        name: str,
        amqp_port: int | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> None:
        self._creds = creds
        self._amqp_port = amqp_port
        self._connections: dict[str, BrokerConnection] = {}
        self._name, self._on_state = name, on_state
        self.results_route = Route(creds.result_queue_info)
        self.results: Publisher = self._connection("result_queue_info").publisher()
        self.reports_route: Route | None = None
        self.reports: Publisher | None = None
        if creds.heartbeat_queue_info is not None:
            self.reports_route = Route(creds.heartbeat_queue_info)
            self.reports = self._connection("heartbeat_queue_info").publisher()
        self._tasks = self._connection("task_queue_info")

    def open(self) -> None:
        """Begin to connect."""
        for connection in self._connections.values():
            connection.open()

    def consume(
        self, on_delivery: Callable[[Delivery], None], *, prefetch: int, on_refused: Callable[[str], None]
    ) -> Consumer:
        """Consume the task queue, alone."""
        return self._tasks.consume(
            self._creds.task_queue_info.queue,
            on_delivery,
            prefetch=prefetch,
            exclusive=True,
            on_refused=on_refused,
        )

    @property
    def state(self) -> State:
        """Return how the connection that brings tasks is."""
        return self._tasks.state

    def refresh(self, creds: AmqpCreds) -> None:
        """Use `creds` from the next try to connect on; an open connection stays."""
        self._creds = creds

    async def close(self, drain_s: float) -> None:
        """Wait up to `drain_s` for outstanding confirms, then say goodbye."""
        await asyncio.gather(*(c.close(drain_s=drain_s) for c in self._connections.values()))

    def _connection(self, role: str) -> BrokerConnection:
        url = self._url(role)
        known = self._connections.get(url.reveal())
        if known is not None:
            return known
        made = BrokerConnection(lambda: self._url(role), name=self._name, on_state=self._on_state)
        self._connections[url.reveal()] = made
        return made

    def _url(self, role: str) -> Secret:
        info: QueueInfo = getattr(self._creds, role)
        return with_port(info.connection_url, self._amqp_port)


def with_port(url: Secret, port: int | None) -> Secret:
    """Return `url` with `port` in place of its own, as the setting `amqp_port` asks."""
    if port is None:
        return url
    scheme, _, rest = url.reveal().partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if not host.endswith("]"):
        host = host.rpartition(":")[0] or host
    return Secret(f"{scheme}://{userinfo}{at}{host}:{port}{slash}{path}")
