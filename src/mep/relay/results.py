"""Results on their way: from the results queue into the store and on to the task group's queue.

Stored first, forwarded then, acknowledged after both. The first result of a task wins. A message that the broker
gives again is forwarded again: the first forward may have been lost with a relay that died in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from sqlalchemy import Connection

from mep.base.codes import Code, next_step
from mep.base.errors import InputError, ServiceError
from mep.base.ids import is_uuid
from mep.relay import metrics
from mep.relay.amqp import Incoming, RelayBroker
from mep.relay.opening import Opening
from mep.relay.seals import Seals
from mep.relay.store import Store
from mep.relay.store import tasks as stored_tasks
from mep.relay.store.tasks import Arrived, Group, Parked, Stored
from mep.wire import envelope
from mep.wire.envelope import ErrorDetails, Result, StatusReport
from mep.wire.limits import MAX_RESULT_CHARS

log = logging.getLogger(__name__)

#: What stock clients accept in `task_statuses`; anything else makes them requeue the message for ever.
STATES = frozenset(
    (
        "received",
        "waiting-for-ep",
        "waiting-for-nodes",
        "waiting-for-launch",
        "execution-start",
        "execution-end",
        "running",
        "success",
        "failed",
        "result-received",
        "result-enqueued",
        "action-provider-received",
        "action-provider-task-submitted",
        "action-provider-task-group-in-progress",
        "action-provider-task-group-completed",
        "action-provider-task-group-error",
    )
)
ACTORS = frozenset(
    ("worker", "manager", "interchange", "endpoint", "result-processor", "web-service", "action-provider")
)

_MAX_BODY_BYTES = 6 * MAX_RESULT_CHARS + 1024 * 1024  # the most that an allowed result can take on the wire

OnReport = Callable[[str, StatusReport], None]


class Results:
    """`on_report` gets the status reports that old endpoints send through the results queue; `on_settled` how many
    tasks of which user endpoint ended; `high_assurance` tells whether its clients fetch results themselves, as the
    task itself may (its endpoint was so when it was submitted). Then no group's queue has anything of the result.
    """

    def __init__(
        self,
        store: Store,
        broker: RelayBroker,
        *,
        on_report: OnReport,
        on_settled: Callable[[str, int], None],
        high_assurance: Callable[[str], bool],
        seals: Seals,
        opening: Opening,
    ) -> None:
        self._store, self._broker = store, broker
        self._seals, self._opening = seals, opening
        self._on_report, self._on_settled, self._high_assurance = on_report, on_settled, high_assurance
        self._owed: set[str] = set()  # tasks whose results are stored and could not be forwarded yet

    async def on_batch(self, batch: list[Incoming]) -> None:
        """Handle what the results queue delivered; returns when all may be acknowledged."""
        opened = [one for message in batch if (one := await self._opening.result(message)) is not None]
        arrived = [result for message in opened if (result := self._read(message)) is not None]
        if not arrived:
            return
        verdicts = await self._store.write(lambda c: stored_tasks.store_results(c, arrived))
        self._account(arrived, verdicts)
        await self._forward(arrived, verdicts)

    async def forward_again(self, group: Group) -> None:
        """Replace what waits in the group's queue by all results it has had, in the form that it wants now."""
        await self._broker.purge_group(group.identity_id, group.id)
        members = await self._store.read_much(lambda c: stored_tasks.group_tasks(c, group.id))
        for start in range(0, len(members), 200):
            ids = [task_id for task_id, _ in members[start : start + 200]]
            states = await self._store.read_much(lambda c: stored_tasks.states(c, ids))  # noqa: B023 - awaited here
            done = [state for state in states.values() if state.body is not None]
            arrived = [Arrived(task_id=state.id, sender="", body=b"") for state in done]
            where = (group.id, group.identity_id, True)
            verdicts = [
                Stored("again", one.uep_id, *where, one.body, group.seals, assured=one.assured) for one in done
            ]
            await self._forward(arrived, verdicts)

    async def settle(self, failures: Sequence[Result]) -> None:
        """End tasks by the relay's own word. Durable: what is not forwarded now is so after the next start."""
        arrived = [Arrived(task_id=r.task_id, sender="", body=envelope.encode(r)) for r in failures]
        for start in range(0, len(arrived), 200):
            await self._settle_some(arrived[start : start + 200])

    async def _settle_some(self, arrived: list[Arrived]) -> None:
        verdicts, numbers = await self._store.write(lambda c: _store_and_park(c, arrived))
        self._account(arrived, verdicts)
        await self._forward(arrived, verdicts)
        self._store.write_later(lambda c: stored_tasks.unpark(c, numbers))

    # ---- inside ----

    def _read(self, message: Incoming) -> Arrived | None:
        """Return the result in a message. What is none is logged and dropped; a result that clients could not read
        becomes a failure that they can."""
        if len(message.body) > _MAX_BODY_BYTES:
            return self._unreadable(message, f"{len(message.body)} bytes", code=Code.RESULT_TOO_LARGE)
        try:
            found = envelope.decode(message.body)
        except InputError as error:
            return self._unreadable(message, error.user_text)
        if isinstance(found, StatusReport):
            self._on_report(message.sender, found)
            return None
        if not isinstance(found, Result):
            log.warning("dropped a message of %s on the results queue: not a result", message.sender)
            return None
        if wrong := _what_clients_refuse(found):
            return self._unreadable(message, wrong, found.task_id)
        if len(found.data) > MAX_RESULT_CHARS:
            text = f"{len(found.data)} characters; {MAX_RESULT_CHARS} are allowed"
            return self._unreadable(message, text, found.task_id, code=Code.RESULT_TOO_LARGE)
        return Arrived(
            task_id=found.task_id,
            sender=message.sender,
            body=message.body,
            redelivered=message.redelivered or found.task_id in self._owed,
        )

    def _unreadable(
        self, message: Incoming, why: str, task_id: str = "", *, code: Code = Code.TASK_FAILED
    ) -> Arrived | None:
        task_id = task_id or str(message.headers.get(envelope.HEADER_TASK, "")) or _task_id_in(message.body)
        log.warning("an unusable result of %s for task %.40s: %s", message.sender, task_id or "?", why)
        if not is_uuid(task_id):
            return None
        text = f"{code}: The endpoint sent an unusable result: {why}. {next_step(code).user}"
        again = message.redelivered or task_id in self._owed
        return Arrived(
            task_id=task_id,
            sender=message.sender,
            body=envelope.encode(failure(task_id, code, text)),
            redelivered=again,
        )

    def _account(self, arrived: Sequence[Arrived], verdicts: Sequence[Stored]) -> None:
        settled: Counter[str] = Counter()
        ignored: dict[tuple[str, str], list[str]] = {}
        for one, stored in zip(arrived, verdicts, strict=True):
            metrics.RESULTS.labels(stored.verdict).inc()
            if stored.verdict == "new":
                settled[stored.uep_id] += 1
            elif stored.verdict in ("forged", "unknown"):
                ignored.setdefault((one.sender, stored.verdict), []).append(one.task_id)
        for uep_id, count in settled.items():
            self._on_settled(uep_id, count)
        for (sender, verdict), tasks in ignored.items():  # one line, however many: nobody floods the log
            what = "tasks that are not its own" if verdict == "forged" else "unknown tasks"
            log.warning("%s sent results for %d %s: ignored (%.40s, ...)", sender, len(tasks), what, tasks[0])

    async def _forward(self, arrived: Sequence[Arrived], verdicts: Sequence[Stored]) -> None:
        """Hand new results to the queues of their groups; returns when the broker has them."""
        now = int(time.time())
        by_queue: dict[tuple[str, str, bool], list[bytes]] = {}  # True: the header says what the body is
        seals = self._seals.deliveries
        due: set[str] = set()
        for one, stored in zip(arrived, verdicts, strict=True):
            body = one.body if stored.verdict == "new" else stored.body
            if stored.has_queue and body is not None and stored.verdict in ("new", "again"):
                assured = stored.assured or self._high_assurance(stored.uep_id)
                if assured:
                    body = envelope.encode(envelope.announcement(one.task_id))
                if stored.seals:
                    body = seals(stored.identity_id, stored.group_id).seal(body)
                key = (stored.identity_id, stored.group_id, assured and not stored.seals)
                by_queue.setdefault(key, []).append(body)
                due.add(one.task_id)
        self._owed |= due
        sends: list[Awaitable[None]] = [
            self._broker.publish_results(identity, group, bodies, timestamp=now, high_assurance=assured)
            for (identity, group, assured), bodies in by_queue.items()
        ]
        for outcome in await asyncio.gather(*sends, return_exceptions=True):
            if isinstance(outcome, ServiceError):
                log.error("results could not be forwarded: %s", outcome.for_admin())
            if isinstance(outcome, BaseException):
                raise outcome
        self._owed -= due


def failure(task_id: str, code: Code | str, text: str) -> Result:
    """Return a task's end as the relay words it: `text` is shown to the user in full."""
    return Result(task_id=task_id, data=text, error_details=ErrorDetails(code=str(code), user_message=text))


def _store_and_park(connection: Connection, arrived: Sequence[Arrived]) -> tuple[list[Stored], list[int]]:
    verdicts = stored_tasks.store_results(connection, arrived)
    return verdicts, stored_tasks.park(connection, _parked(arrived, verdicts))


def _parked(arrived: Sequence[Arrived], verdicts: Sequence[Stored]) -> list[Parked]:
    return [
        Parked(kind="result", target=f"{v.identity_id}/{v.group_id}", headers="{}", body=one.body)
        for one, v in zip(arrived, verdicts, strict=True)
        if v.verdict == "new" and v.has_queue
    ]


def _what_clients_refuse(result: Result) -> str:
    """Return what a strict client would refuse about a decoded result, or ""."""
    for step in result.task_statuses or ():
        if step.state not in STATES:
            return f"the unknown task state {step.state[:40]!r}"
        if step.actor not in ACTORS:
            return f"the unknown actor {step.actor[:40]!r}"
    return ""


class _OnlyId(msgspec.Struct):
    task_id: str


class _OnlyData(msgspec.Struct):
    data: _OnlyId


_id_decoder = msgspec.json.Decoder(_OnlyData)


def _task_id_in(body: bytes) -> str:
    try:
        return _id_decoder.decode(body[1:]).data.task_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
