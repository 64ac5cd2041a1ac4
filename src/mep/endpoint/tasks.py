"""The tasks of a user endpoint, from their delivery to the broker's confirm of their results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mep.base.codes import Code
from mep.base.errors import HostError, TaskError
from mep.base.secrets import Secret
from mep.base.seldom import Seldom
from mep.broker import Consumer, Delivery
from mep.endpoint.intake import Unanswerable, open_task, read_task
from mep.endpoint.journal import Journal
from mep.endpoint.ledger import Ledger, Stage
from mep.endpoint.links import Links
from mep.endpoint.outbox import Outbox
from mep.endpoint.trail import Trail
from mep.engines.base import Call, Engine, Outcome, failure
from mep.wire import seal
from mep.wire.seal import Sealer, Stamp
from mep.wire.taskevents import Place

log = logging.getLogger(__name__)

#: Unacknowledged deliveries; enough that the broker never waits for an acknowledgement.
_PREFETCH = 256
#: Acknowledged and not finished: beyond this, what is waiting stays with the broker.
_BACKLOG_TASKS = 1000
_BACKLOG_CHARS = 64 * 1024 * 1024
#: How often a task may be started with `retry_lost_tasks`: one that kills its endpoint must not go on for ever.
_MOST_STARTS = 3


class Tasks:
    """Deliveries in, results out. `on_moved` hears each movement, `on_trouble` each change of `trouble`.

    `limit_met`: which limit ended the user endpoint before this one, if it was one.
    With a `seal_key` only sealed tasks are taken, and results go out sealed.
    """

    def __init__(
        self,
        engine: Engine,
        links: Links,
        journal: Journal,
        *,
        uep_id: str,
        allowed_functions: frozenset[str] | None,
        retry_lost: bool,
        limit_met: str,
        seal_key: Secret | None,
        trail: Trail,
        on_moved: Callable[[], None],
        on_trouble: Callable[[], None],
    ) -> None:
        self._engine, self._links = engine, links
        self._uep_id, self._allowed = uep_id, allowed_functions
        self._retry_lost = retry_lost
        self._limit_met = limit_met
        self._trail = trail
        self._on_moved, self._on_trouble = on_moved, on_trouble
        self._ledger = Ledger(journal, on_durable=self._acknowledge, on_full=self._on_full)
        self._outbox = Outbox(links.results, links.results_route, self._on_confirmed)
        self._sealer: Sealer | None = None
        self.use_key(seal_key)
        self._seldom = Seldom(log)
        self._consumer: Consumer | None = None
        self._arrived: dict[str, Call] = {}  # by task
        self._stamps: dict[str, Stamp] = {}  # of those that came sealed
        self._unacked: Delivery | None = None  # the last one; acknowledging it acknowledges all before it
        self._backlog_tasks = max(_BACKLOG_TASKS, 4 * engine.workers)
        self._take_due = False
        self._stopping = False
        self._quiet: asyncio.Future[None] | None = None
        self.done = 0
        self._refusal = ""  # why the broker does not give us the queue
        self._full = ""  # why the journal takes no more
        self._held = ""  # why the monitor lets us take no more
        self._kept: list[Delivery] = []  # while held

    @property
    def consuming(self) -> bool:
        """Tell whether the broker gives us tasks."""
        return self._consumer is not None and self._consumer.consuming

    @property
    def trouble(self) -> str:
        """Return why no tasks are taken, for reports and `mep status`; "" if they are."""
        if self._full or self._held:
            return self._full or self._held
        return "" if self.consuming or not self._refusal else f"no tasks: {self._refusal}"

    @property
    def outstanding(self) -> int:
        """Return how many tasks are accepted and not answered."""
        return self._ledger.outstanding

    def use_key(self, seal_key: Secret | None) -> None:
        """Open tasks and seal results with this key from now on."""
        self._sealer = self._outbox.sealer = None
        if seal_key is not None:
            self._sealer = Sealer(seal_key, seal.TASK, self._uep_id)
            self._outbox.sealer = Sealer(seal_key, seal.RESULT, self._uep_id)

    # ---- begin and end ----

    def begin(self) -> None:
        """Take up what an earlier user endpoint left, and consume."""
        left = self._ledger.recover()
        self._trail.known([*left.waiting, *(call for call, _ in left.running)])
        for outcome in left.results:
            self._outbox.send(outcome)
        for call, starts in left.running:
            if self._retry_lost and starts < _MOST_STARTS:
                self._engine.submit(call)
            else:
                why = f"{self._limit_met} This task ran then." if self._limit_met else ""
                code = Code.LIMIT_EXCEEDED if why else Code.TASK_LOST
                self._send(lost(call.task_id, why or "The user endpoint died while the task ran.", code))
        for call in left.waiting:
            self._engine.submit(call)
        if left.results or left.running or left.waiting:
            log.info(
                "journal: %d results to send, %d tasks to run, %d were running",
                len(left.results),
                len(left.waiting),
                len(left.running),
            )
        self._consume()

    async def wait_consuming(self) -> None:
        """Return once the broker has accepted us as the queue's consumer."""
        assert self._consumer is not None
        await self._consumer.wait_consuming()

    def stop_taking(self) -> None:
        """Take no more tasks; what the broker sends from now on goes back to the queue."""
        self._stopping = True
        self._take()
        if self._consumer is not None:
            self._consumer.cancel()

    async def wait_running(self, grace_s: float) -> None:
        """Return when no task runs any more, or after `grace_s` seconds."""
        if not self._ledger.in_stage(Stage.STARTED) or grace_s <= 0:
            return
        self._quiet = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._quiet], timeout=grace_s)

    def lose_running(self, why: str) -> None:
        """Answer for the tasks that ran until now, unless they are to be run again."""
        if self._retry_lost:
            return
        for task_id in self._ledger.in_stage(Stage.STARTED):
            self._send(lost(task_id, why))

    def hold(self, why: str) -> None:
        """Take no more tasks until this is called with "": what is delivered meanwhile stays the broker's."""
        self._held = why
        kept, self._kept = self._kept, []
        for delivery in kept:
            self._on_delivery(delivery)
        self._on_trouble()

    def close(self) -> None:
        """Close the journal; what is not confirmed stays in it."""
        self._outbox.close()
        self._ledger.close()

    # ---- deliveries ----

    def _consume(self) -> None:
        self._consumer = self._links.consume(self._on_delivery, prefetch=_PREFETCH, on_refused=self._on_refused)

    def _on_refused(self, why: str) -> None:
        self._refusal = why
        self._on_trouble()

    def _on_delivery(self, delivery: Delivery) -> None:
        consumer = self._consumer
        assert consumer is not None
        if self._held:
            self._kept.append(delivery)
            return
        try:
            read, stamp = self._read(delivery)
        except Unanswerable as error:
            self._seldom.warn("a message on the task queue was thrown away: %s", error)
            consumer.reject(delivery)
            return
        self._on_moved()
        self._sort(read, stamp)
        self._unacked = Delivery(b"", {}, None, "", delivery.redelivered, delivery.key)
        if not self._take_due:
            self._take_due = True
            asyncio.get_running_loop().call_soon(self._take)

    def _sort(self, read: Call | Outcome, stamp: Stamp | None) -> None:
        """Keep what is new for `_take`, answer what cannot be run, ignore what was taken before."""
        known = self._ledger.stage(read.task_id) is not None or read.task_id in self._arrived
        if stamp is not None and self._ledger.replayed(stamp):
            if not known:
                self._seldom.warn("task %s has come again, long after it was done: ignored", read.task_id)
        elif isinstance(read, Call) and not known:
            self._arrived[read.task_id] = read
            if stamp is not None:
                self._stamps[read.task_id] = stamp
        else:
            if stamp is not None:
                self._ledger.saw(stamp)
            if isinstance(read, Outcome) and not known:
                self._send(read)

    def _read(self, delivery: Delivery) -> tuple[Call | Outcome, Stamp | None]:
        if self._sealer is None:
            return read_task(delivery, self._allowed, self._uep_id), None
        return open_task(delivery, self._sealer, self._allowed, self._uep_id)

    def _take(self) -> None:
        """Make what arrived in this turn of the loop ours, with one write. A full journal: see `_on_full`."""
        self._take_due = False
        calls, stamps = list(self._arrived.values()), self._stamps
        self._arrived, self._stamps = {}, {}
        try:
            if calls:
                self._ledger.accept(calls, stamps)
        except HostError:
            return
        self._trail.received(calls)
        for call in calls:
            self._engine.submit(call)
        if self._ledger.settled():
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Acknowledge all that was delivered, if all of it is ours and there is not too much waiting already."""
        too_much = self._ledger.outstanding > self._backlog_tasks or self._ledger.backlog_chars > _BACKLOG_CHARS
        if self._unacked is None or self._consumer is None or too_much or self._ledger.full or self._arrived:
            return
        last, self._unacked = self._unacked, None
        self._consumer.ack(last, multiple=True)

    def _on_full(self, why: str) -> None:
        """With no room for the journal nothing more is taken; what runs is still answered."""
        self._full = f"{Code.JOURNAL_FULL.value}: {why}" if why else ""
        if why and self._consumer is not None:
            self._unacked = None
            consumer, self._consumer = self._consumer, None
            consumer.close()
        elif not why and not self._stopping:
            self._consume()
        self._on_trouble()

    # ---- from the engine, to the broker ----

    def started(self, task_id: str) -> None:
        """The engine hands the task to a worker."""
        self._ledger.started(task_id)
        self._trail.started(task_id)

    def running(self, task_id: str, place: Place) -> None:
        """A worker has the task."""
        self._trail.running(task_id, place)

    def may_rerun(self, task_id: str) -> bool:
        """Tell whether a task whose worker died may be started again."""
        return self._retry_lost and self._ledger.starts(task_id) < _MOST_STARTS

    def finished(self, outcome: Outcome) -> None:
        """The engine has the task's outcome."""
        if self._ledger.stage(outcome.task_id) in (Stage.ACCEPTED, Stage.STARTED):
            self._send(outcome)

    def _send(self, outcome: Outcome) -> None:
        if outcome.code:
            log.info("task %s failed: %s", outcome.task_id, outcome.code)
        self._ledger.finished(outcome)
        self._trail.ended(outcome)
        self._outbox.send(outcome)
        if self._quiet is not None and not self._quiet.done() and not self._ledger.in_stage(Stage.STARTED):
            self._quiet.set_result(None)

    def _on_confirmed(self, task_id: str) -> None:
        self.done += 1
        self._on_moved()
        self._ledger.forget(task_id)
        if self._unacked is not None and self._ledger.settled():
            self._acknowledge()


def lost(task_id: str, why: str, code: Code = Code.TASK_LOST) -> Outcome:
    """Return the outcome of a task that had started and whose end nobody saw."""
    text = TaskError(code, f"{why} It may have had effects; it is not run again.").for_user()
    return failure(task_id, code.value, text)
