"""What the gate tells the relay: signs of life, and what became of user endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from mep.base.errors import ServiceError
from mep.broker import BrokerConnection, Publisher
from mep.wire import envelope
from mep.wire.command import QueueInfo
from mep.wire.envelope import StatusReport
from mep.wire.seal import Sealer

log = logging.getLogger(__name__)

_MOST_REMEMBERED = 10_000
_SEND_S = 10.0


def heartbeat(endpoint_id: str, period_s: float) -> StatusReport:
    """The endpoint lives; `period_s` 0: it says goodbye."""
    return StatusReport(endpoint_id=endpoint_id, global_state={"heartbeat_period": period_s})


def start_failed(uep_id: str, *, request_id: str, code: str, text: str, period_s: float) -> StatusReport:
    """A user endpoint did not come to be."""
    return StatusReport(
        endpoint_id=uep_id,
        global_state={
            "error": f"{code}: {text}" if code else text,
            "error_code": code,
            "request_id": request_id,
            "heartbeat_period": period_s,
        },
    )


def ended(uep_id: str, *, code: str, text: str, period_s: float) -> StatusReport:
    """A user endpoint is gone, with all its processes."""
    return StatusReport(
        endpoint_id=uep_id,
        global_state={
            "active": False,
            "ended": {"code": code, "text": text},
            "heartbeat_period": period_s,
        },
    )


class Notices:
    """Publishes reports: by the endpoint's own publisher where the relay takes that, else by the user endpoint's.

    A relay of ours accepts an endpoint's word about its user endpoints; the stock service only the user
    endpoint's own, so its credentials from the command are kept for as long as it may be needed.
    """

    def __init__(self, publisher: Publisher, info: QueueInfo, *, ours: bool, sealer: Sealer | None = None) -> None:
        self._publisher, self._info, self._ours, self._sealer = publisher, info, ours, sealer
        self._ways: OrderedDict[str, QueueInfo] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def now_via(self, info: QueueInfo, *, ours: bool, sealer: Sealer | None = None) -> None:
        """The relay has answered a registration: publish like this from now on."""
        self._info, self._ours, self._sealer = info, ours, sealer

    def remember(self, uep_id: str, way: QueueInfo | None) -> None:
        """Keep the user endpoint's own way, where that is needed."""
        if self._ours or way is None:
            return
        self._ways[uep_id] = way
        self._ways.move_to_end(uep_id)
        if len(self._ways) > _MOST_REMEMBERED:
            self._ways.popitem(last=False)

    def about_endpoint(self, report: StatusReport) -> asyncio.Future[None]:
        """Publish about the endpoint itself; the future ends with the broker's confirm."""
        return self._tell(report)

    def about_uep(self, report: StatusReport) -> None:
        """Publish about a user endpoint. Nobody waits for it; a failure is logged."""
        if self._ours:
            self._tell(report).add_done_callback(_log_failure)
            return
        way = self._ways.get(report.endpoint_id)
        if way is None:
            log.warning("user endpoint %s: the service cannot be told of its end", report.endpoint_id)
            return
        task = asyncio.get_running_loop().create_task(self._send_by(way, report))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_by(self, way: QueueInfo, report: StatusReport) -> None:
        connection = BrokerConnection(way.connection_url, name=f"notice {report.endpoint_id}")
        connection.open()
        try:
            sent = _publish(connection.publisher(), way, envelope.encode(report))
            await asyncio.wait_for(sent, _SEND_S)
        except (TimeoutError, ServiceError) as error:
            log.warning("user endpoint %s: the service could not be told: %s", report.endpoint_id, error)
        finally:
            await connection.close()

    def _tell(self, report: StatusReport) -> asyncio.Future[None]:
        """Publish under the endpoint's own name; sealed where the relay opens it."""
        body = envelope.encode(report)
        return _publish(self._publisher, self._info, body if self._sealer is None else self._sealer.seal(body))


def _publish(publisher: Publisher, info: QueueInfo, body: bytes) -> asyncio.Future[None]:
    given: dict[str, Any] = dict(info.queue_publish_kwargs)
    return publisher.publish(
        str(given.get("exchange", info.exchange)),
        str(given.get("routing_key", "")),
        body,
        properties=given.get("properties") or {},
        mandatory=bool(given.get("mandatory", True)),
    )


def _log_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.warning("the relay could not be told: %s", done.exception())
