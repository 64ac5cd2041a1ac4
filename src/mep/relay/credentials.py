"""Broker accounts of endpoints, user endpoints and SDK users, and the documents that carry them.

A password is derived from the relay's secret, the account's name and a generation: asking again gives the same,
so that connections live on; raising the generation makes the old one worthless.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

from mep.base.secrets import Secret
from mep.relay import topology
from mep.relay.amqp import RelayBroker
from mep.relay.brokeradmin import BrokerAdmin
from mep.relay.store.endpoints import Endpoint
from mep.relay.topology import Grants
from mep.wire.command import AmqpCreds, QueueInfo


class Credentials:
    """Makes accounts and queues at the broker before it hands out what leads to them."""

    def __init__(self, broker: RelayBroker, admin: BrokerAdmin, secret: Secret) -> None:
        self._broker, self._admin = broker, admin
        self._secret = secret.reveal().encode()
        self._made: dict[str, asyncio.Task[None]] = {}  # by account and generation, since the last reconnect

    def forget_made(self) -> None:
        """Make accounts again when they are next asked for: the broker may have lost its data."""
        self._made.clear()

    async def of_endpoint(self, endpoint: Endpoint) -> dict[str, QueueInfo]:
        """Return all four kinds of queue of a registered endpoint."""
        grants = topology.endpoint_grants(endpoint.id)
        if not endpoint.uses_commands or _reports_with_results(endpoint.version):
            grants = topology.single_user_grants(endpoint.id)
        url = await self._account(grants, endpoint.generation)
        await self._broker.ensure_endpoint_queues(endpoint.id)
        if not endpoint.uses_commands:
            await self._broker.ensure_uep_queues(endpoint.id)
        return {
            "command_queue_info": QueueInfo(
                connection_url=url, exchange=topology.COMMANDS, queue=topology.command_queue(endpoint.id)
            ),
            **_work_queues(endpoint.id, url),
        }

    async def of_uep(self, uep_id: str, generation: int) -> AmqpCreds:
        """Return what a user endpoint connects with."""
        url, _ = await asyncio.gather(
            self._account(topology.uep_grants(uep_id), generation), self._broker.ensure_uep_queues(uep_id)
        )
        return AmqpCreds(endpoint_id=uep_id, **_work_queues(uep_id, url))

    async def of_sdk(self, identity_id: str) -> tuple[str, Secret]:
        """Return the prefix of a person's group queues and the URL to read them with."""
        url = await self._account(topology.sdk_grants(identity_id), 0)
        return topology.group_prefix(identity_id), url

    async def revoke(self, account: str) -> None:
        """Remove an account; the broker closes its connections."""
        for key in [k for k in self._made if k.startswith(f"{account}:")]:
            del self._made[key]
        await self._admin.delete_user(account)

    async def remove_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint's account, then its commands: nobody is there any more to ask for them."""
        await self.revoke(f"ep.{endpoint_id}")
        await self._broker.delete_endpoint_queues(endpoint_id)

    async def _account(self, grants: Grants, generation: int) -> Secret:
        """Make the account once; callers at the same time share one call."""
        key = f"{grants.user}:{generation}"
        password = Secret(hmac.new(self._secret, key.encode(), hashlib.sha256).hexdigest())
        making = self._made.get(key)
        if making is None or (making.done() and making.exception() is not None):
            making = asyncio.create_task(self._admin.ensure_user(grants, password))
            self._made[key] = making
        await asyncio.shield(making)
        return self._broker.client_url(grants.user, password)


def _reports_with_results(version: str) -> bool:
    """Before 3.1 endpoints published their status reports through the results queue."""
    parts = version.split(".")[:2]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 10]
    return len(numbers) == 2 and numbers < [3, 1]


def _work_queues(who: str, url: Secret) -> dict[str, QueueInfo]:
    return {
        "task_queue_info": QueueInfo(connection_url=url, exchange=topology.TASKS, queue=topology.task_queue(who)),
        "result_queue_info": _publishing(who, url, topology.RESULTS, topology.RESULTS_QUEUE),
        "heartbeat_queue_info": _publishing(who, url, topology.HEARTBEATS, topology.HEARTBEATS_QUEUE),
    }


def _publishing(who: str, url: Secret, exchange: str, queue: str) -> QueueInfo:
    arguments: dict[str, Any] = {
        "exchange": exchange,
        "routing_key": topology.routing_key(who, exchange),
        "mandatory": True,
        "properties": {"delivery_mode": 2},
    }
    return QueueInfo(connection_url=url, exchange=exchange, queue=queue, queue_publish_kwargs=arguments)
