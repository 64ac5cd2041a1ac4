"""From the store to the broker: tasks published with confirms, or parked on disk where the broker is away."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mep.base.errors import MepError
from mep.relay.amqp import OutgoingTask, RelayBroker
from mep.relay.credentials import Credentials
from mep.relay.endings import Expiry
from mep.relay.fleet import UP, Fleet, Uep
from mep.relay.liveness import Liveness
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.starts import Starts
from mep.relay.store import Store, tasks
from mep.relay.store.tasks import Group, Parked
from mep.wire import envelope
from mep.wire.envelope import HEADER_FUNCTION, HEADER_RESOURCES, HEADER_SERIALIZERS, HEADER_TASK, Result

log = logging.getLogger(__name__)


class Dispatch:
    """What happens to accepted tasks until the broker has them."""

    def __init__(
        self,
        store: Store,
        broker: RelayBroker,
        credentials: Credentials,
        fleet: Fleet,
        starts: Starts,
        liveness: Liveness,
        expiry: Expiry,
        seals: Seals,
        settings: Settings,
    ) -> None:
        self._store, self._broker, self._credentials, self._seals = store, broker, credentials, seals
        self._fleet, self._starts, self._liveness, self._expiry = fleet, starts, liveness, expiry
        self._patience_s = settings.publish_patience_s

    @asynccontextmanager
    async def turn(self, uep: Uep) -> AsyncIterator[None]:
        """Between this and its end tasks are stored and published; the queue is not purged meanwhile."""
        while uep.settling is not None:
            await asyncio.shield(uep.settling)
        uep.inflight += 1
        try:
            yield
        finally:
            uep.inflight -= 1
            if uep.inflight == 0 and uep.quiet is not None:
                uep.quiet.set()

    def prepare(self, uep: Uep, group: Group) -> None:
        """Begin beside the commit what takes the broker a moment: accounts that will be asked for next."""
        if uep.state != UP and uep.core.uses_commands:
            self._fleet.spawn(self._warm_uep(uep), name="prepare user endpoint")
        if group.has_queue:
            self._fleet.spawn(self._warm_sdk(group.identity_id), name="prepare SDK account")

    def accepted(self, uep: Uep, count: int, request_id: str) -> None:
        """Tasks are on disk: from here on somebody must finish them."""
        uep.open += count
        self._expiry.watch(time.time())
        if uep.state != UP:
            self._starts.begin(uep, request_id=request_id)
        elif uep.core.uses_commands:
            self._liveness.verify(uep)

    async def publish(self, uep: Uep, group: Group, messages: Sequence[OutgoingTask]) -> None:
        """Return once the broker has the tasks and the group's queue; where it is away, once they are parked."""
        work = asyncio.ensure_future(self._publish(uep, group, messages))
        done, _ = await asyncio.wait((work,), timeout=self._patience_s)
        if done:
            work.result()
            return
        log.warning("the broker does not take tasks: %d are parked on disk", len(messages))
        parked = [
            Parked(kind="task", target=uep.id, headers=json.dumps(m.headers()), body=m.body) for m in messages
        ]
        numbers = await self._store.write(lambda c: tasks.park(c, parked))
        self._fleet.spawn(self._unpark_when_done(work, numbers), name="parked tasks")

    async def flush(self) -> None:
        """Publish what an earlier relay left in the outbox."""
        for message in await self._store.read_much(tasks.parked):
            if message.kind == "task":
                await self._broker.publish_tasks(message.target, [_unparked(message)])
            else:
                await self._forward(message)
            await self._store.write(lambda c, n=message.id: tasks.unpark(c, [n]))  # type: ignore[misc]

    # ---- inside ----

    async def _forward(self, message: Parked) -> None:
        identity_id, _, group_id = message.target.partition("/")
        group = await self._store.read_much(lambda c: tasks.find_group(c, group_id))
        body, sealed = message.body, group is not None and group.seals
        assured = await self._assured(body)
        if assured:
            body = assured
        if sealed:
            body = self._seals.deliveries(identity_id, group_id).seal(body)
        marked = bool(assured) and not sealed
        await self._broker.publish_results(identity_id, group_id, [body], high_assurance=marked)

    async def _assured(self, body: bytes) -> bytes:
        """Return what is pushed instead of a result that is to be fetched; b"" for others."""
        result = envelope.decode(body)
        assert isinstance(result, Result)
        state = (await self._store.read_much(lambda c: tasks.states(c, [result.task_id]))).get(result.task_id)
        if state is None or not (state.assured or self._fleet.high_assurance(state.uep_id)):
            return b""
        return envelope.encode(envelope.announcement(result.task_id))

    async def _publish(self, uep: Uep, group: Group, messages: Sequence[OutgoingTask]) -> None:
        if group.has_queue:
            await self._broker.ensure_group_queue(group.identity_id, group.id)
        await self._broker.publish_tasks(uep.id, messages)

    async def _unpark_when_done(self, work: asyncio.Future[None], numbers: list[int]) -> None:
        await work
        await self._store.write(lambda c: tasks.unpark(c, numbers))  # at once: the next relay would send it again

    async def _warm_uep(self, uep: Uep) -> None:
        try:
            await self._credentials.of_uep(uep.id, uep.record.generation)
        except MepError as error:
            log.debug("%s", error.for_admin())  # whoever needs the account asks again, and is heard

    async def _warm_sdk(self, identity_id: str) -> None:
        try:
            await self._credentials.of_sdk(identity_id)
        except MepError as error:
            log.debug("%s", error.for_admin())


def _unparked(message: Parked) -> OutgoingTask:
    headers = json.loads(message.headers)
    if not headers:
        return OutgoingTask("", "", message.body, sealed=True)
    resources = headers.get(HEADER_RESOURCES)
    return OutgoingTask(
        headers[HEADER_TASK],
        headers[HEADER_FUNCTION],
        message.body,
        json.loads(resources) if resources else None,
        headers.get(HEADER_SERIALIZERS),
    )
