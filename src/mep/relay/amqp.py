"""The relay's own broker connection: start commands and tasks out, results and status reports in."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mep.base.codes import Code
from mep.base.errors import ServiceError
from mep.base.secrets import Secret
from mep.broker import (
    BatchConsumer,
    BrokerConnection,
    Channel,
    Delivery,
    Publisher,
    QueueFacts,
    State,
    UnroutableError,
)
from mep.relay import topology
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.queues import Queues
from mep.wire.envelope import HEADER_FUNCTION, HEADER_RESOURCES, HEADER_SERIALIZERS, HEADER_TASK

SIGNATURE_HEADER = "mep-signature"
_PERSISTENT = 2
_PREFETCH = 500
_TASK_PROPERTIES = {"delivery_mode": _PERSISTENT, "content_type": "application/json"}
_SEALED_PROPERTIES = {"delivery_mode": _PERSISTENT, "content_type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class OutgoingTask:
    """One task as it goes to its user endpoint. `body` is the encoded envelope, or `sealed` and all there is."""

    task_id: str
    function_id: str
    body: bytes
    resource_specification: Mapping[str, Any] | None = None
    result_serializers: Sequence[str] | None = None
    sealed: bool = False

    def headers(self) -> dict[str, Any]:
        if self.sealed:
            return {}
        headers: dict[str, Any] = {HEADER_FUNCTION: self.function_id, HEADER_TASK: self.task_id}
        if self.resource_specification:
            headers[HEADER_RESOURCES] = json.dumps(self.resource_specification)
        if self.result_serializers:
            headers[HEADER_SERIALIZERS] = list(self.result_serializers)
        return headers


@dataclass(frozen=True, slots=True)
class Incoming:
    """A result or status report. `sender` is proven by the broker: nobody else may use that routing key."""

    sender: str
    body: bytes
    headers: Mapping[str, Any]
    redelivered: bool


OnBatch = Callable[[list[Incoming]], Awaitable[None]]


class RelayBroker:
    """Everything the relay does over AMQP. `open` first; all of it on one running loop.

    While the broker is away, every request waits for its return, and is then done: callers set their own limits.
    """

    def __init__(
        self, address: BrokerAddress, *, name: str = "relay", on_state: Callable[[State], None] | None = None
    ) -> None:
        self._address = address
        self._connection = BrokerConnection(address.amqp, name=name, on_state=on_state, prepare=self._prepare)
        self._tasks: Publisher = self._connection.publisher()
        self._others: Publisher = self._connection.publisher()  # a flood of tasks does not delay these
        self._queues = Queues(self._connection)

    @property
    def state(self) -> State:
        return self._connection.state

    async def open(self, *, timeout_s: float | None = 30.0) -> None:
        """Connect and declare what everybody shares. Later on, reconnecting is automatic."""
        self._connection.open()
        await self._connection.wait_open(timeout_s)

    async def close(self, *, drain_s: float = 5.0) -> None:
        """Wait up to `drain_s` for confirms, then close."""
        await self._connection.close(drain_s=drain_s)

    def client_url(self, user: str, password: Secret) -> Secret:
        """Return the URL that the client with this broker account is given."""
        return self._address.client_url(user, password)

    # ---- queues ----

    async def ensure_endpoint_queues(self, endpoint_id: str) -> None:
        """Declare the command queue of a core endpoint."""
        await self._queues.ensure(topology.command_queue(endpoint_id), topology.COMMANDS)

    async def ensure_uep_queues(self, uep_id: str) -> None:
        """Declare the task queue of a user endpoint."""
        await self._queues.ensure(topology.task_queue(uep_id), topology.TASKS)

    async def ensure_group_queue(self, identity_id: str, group_id: str) -> None:
        """Declare the queue from which an SDK reads the results of one task group."""
        await self._queues.ensure(topology.group_queue(identity_id, group_id))

    async def delete_endpoint_queues(self, endpoint_id: str) -> None:
        """Delete the command queue of a core endpoint."""
        await self._queues.delete(topology.command_queue(endpoint_id))

    async def delete_uep_queues(self, uep_id: str) -> None:
        """Delete the task queue of a user endpoint."""
        await self._queues.delete(topology.task_queue(uep_id))

    async def purge_tasks(self, uep_id: str) -> int:
        """Remove the waiting tasks of a user endpoint; return how many there were. Those that a consumer holds
        unacknowledged stay."""
        return await self._queues.purge(topology.task_queue(uep_id), topology.TASKS)

    async def purge_commands(self, endpoint_id: str) -> int:
        """Remove the start commands that wait for an endpoint."""
        return await self._queues.purge(topology.command_queue(endpoint_id), topology.COMMANDS)

    async def purge_group(self, identity_id: str, group_id: str) -> int:
        """Remove the results that wait for the SDKs of a task group; those that one holds unacknowledged stay."""
        return await self._queues.purge(topology.group_queue(identity_id, group_id))

    async def queue_facts(self, uep_id: str) -> QueueFacts:
        """Return how many tasks wait in the user endpoint's queue, and how many consumers take them."""
        return await self._queues.facts(topology.task_queue(uep_id), topology.TASKS)

    async def consumer_count(self, uep_id: str) -> int:
        """Return how many consumers the user endpoint's task queue has now: 0 = nobody takes its tasks."""
        return (await self.queue_facts(uep_id)).consumers

    # ---- out ----

    async def publish_command(
        self, endpoint_id: str, body: bytes, signature: str, *, expires_s: float = 150.0, debug: bool = False
    ) -> None:
        """Send a start command; returns once the broker has it. One that nobody took within `expires_s` vanishes:
        endpoints would refuse it as too old, and the refusal would fail the tasks. `signature`: "" if `body` is
        sealed and has it inside."""
        headers: dict[str, Any] = {SIGNATURE_HEADER: signature} if signature else {}
        if debug:
            headers["debug"] = True
        message = _Message(
            topology.COMMANDS,
            topology.routing_key(endpoint_id, topology.COMMANDS),
            body,
            headers,
            {
                "content_type": "application/json",
                "timestamp": int(time.time()),
                "delivery_mode": _PERSISTENT,
                "expiration": str(int(expires_s * 1000)),
            },
        )
        await self._publish(
            self._others,
            [message],
            topology.command_queue(endpoint_id),
            lambda: self.ensure_endpoint_queues(endpoint_id),
        )

    async def publish_tasks(self, uep_id: str, tasks: Sequence[OutgoingTask]) -> None:
        """Send tasks in order, pipelined; returns once the broker has all of them."""
        key = topology.routing_key(uep_id, topology.TASKS)
        messages = [_Message(topology.TASKS, key, t.body, t.headers(), _properties(t)) for t in tasks]
        await self._publish(
            self._tasks, messages, topology.task_queue(uep_id), lambda: self.ensure_uep_queues(uep_id)
        )

    async def publish_results(
        self,
        identity_id: str,
        group_id: str,
        bodies: Sequence[bytes],
        *,
        timestamp: int | None = None,
        high_assurance: bool = False,
    ) -> None:
        """Forward results to the queue of their task group; returns once the broker has them.

        `timestamp`: Unix seconds of the tasks' end. With `high_assurance` the client fetches the results itself.
        """
        queue = topology.group_queue(identity_id, group_id)
        properties: dict[str, Any] = {"delivery_mode": _PERSISTENT, "timestamp": timestamp or int(time.time())}
        headers = {"high_assurance": True} if high_assurance else None
        await self._publish(
            self._others,
            [_Message("", queue, body, headers, properties) for body in bodies],
            queue,
            lambda: self.ensure_group_queue(identity_id, group_id),
        )

    # ---- in ----

    def consume_results(self, on_batch: OnBatch) -> BatchConsumer:
        """Give `on_batch` all results that have arrived, together; they are acknowledged when it returns.

        One call at a time: what arrives meanwhile is the next batch. If it raises, the batch is given again,
        slower and slower; a message that fails while others succeed goes to the queue `rejected`.
        """
        return self._consume(topology.RESULTS_QUEUE, on_batch)

    def consume_heartbeats(self, on_batch: OnBatch) -> BatchConsumer:
        """The same for status reports."""
        return self._consume(topology.HEARTBEATS_QUEUE, on_batch)

    # ---- inside ----

    def _consume(self, queue: str, on_batch: OnBatch) -> BatchConsumer:
        async def on_deliveries(deliveries: list[Delivery]) -> None:
            await on_batch(
                [Incoming(topology.id_of(d.routing_key), d.body, d.headers, d.redelivered) for d in deliveries]
            )

        return BatchConsumer(self._connection, queue, on_deliveries, prefetch=_PREFETCH)

    async def _prepare(self, channel: Channel) -> None:
        """Declare what is shared, on each new connection, before anything is sent or consumed on it: the broker
        may have lost its data."""
        self._queues.forget()
        for exchange in topology.EXCHANGES:
            await channel.declare_exchange(exchange, "topic")
        for queue in (topology.REJECTED_QUEUE, topology.RESULTS_QUEUE, topology.HEARTBEATS_QUEUE):
            await channel.declare_queue(queue, arguments=topology.queue_arguments(queue))
        for queue, exchange in (
            (topology.RESULTS_QUEUE, topology.RESULTS),
            (topology.HEARTBEATS_QUEUE, topology.HEARTBEATS),
        ):
            await channel.bind_queue(queue, exchange, topology.routing_key("*", exchange))

    async def _publish(
        self,
        publisher: Publisher,
        messages: Sequence[_Message],
        queue: str,
        ensure: Callable[[], Awaitable[None]],
    ) -> None:
        """Send all; where the queue has vanished since it was declared (a new broker, a deletion), declare it
        again and send once more what was returned."""
        await ensure()
        returned = await _send_all(publisher, messages)
        if returned:
            self._queues.forget(queue)
            await ensure()
            returned = await _send_all(publisher, returned)
            if returned:
                raise UnroutableError(Code.BROKER_REFUSED, f"No queue takes messages for {queue!r}.")


def _properties(task: OutgoingTask) -> dict[str, Any]:
    return _SEALED_PROPERTIES if task.sealed else _TASK_PROPERTIES


@dataclass(frozen=True, slots=True)
class _Message:
    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] | None
    properties: Mapping[str, Any]


async def _send_all(publisher: Publisher, messages: Sequence[_Message]) -> list[_Message]:
    """Send all at once; return those that the broker returned. What else went wrong is raised at the end."""
    sent = [
        publisher.publish(m.exchange, m.routing_key, m.body, headers=m.headers, properties=m.properties)
        for m in messages
    ]
    returned: list[_Message] = []
    failure: Exception | None = None
    for message, future in zip(messages, sent, strict=True):
        try:
            await future
        except UnroutableError:
            returned.append(message)
        except ServiceError as error:
            failure = error
    if failure is not None:
        raise failure
    return returned
