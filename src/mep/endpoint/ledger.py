"""Which tasks are ours and how far each is: the journal's contents, in memory, and its rhythm.

The promise: a task is acknowledged to the broker only when its journal record is on disk, or when its result is
already at the broker. Execution may start before that: the record is in the kernel by then, so it survives our own
death, and should the whole machine die in these few milliseconds, the broker still has the task, and it is run
again. What an earlier life left counts as on disk only after a sync of this one.

A sealed message is taken once, for ever: its number is part of the task's record, and the set of all numbers stays
in the journal when the task is forgotten (`numbers`). What the broker delivers again is either unknown here,
because its record was lost with the machine: then it is taken; or known: then it is acknowledged, no more.

One write carries all records of a turn of the loop, and one fsync those of the last few milliseconds. The fsyncs'
interval follows what one costs here, so that a slow network file system takes at most a third of the loop's time;
a task that ends sooner needs none at all. Only a start is written at once: before the worker has the task; its
fsync follows with the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from mep.base.errors import HostError
from mep.endpoint.journal import Accepted, Finished, Forgotten, Journal, Record, Started, Taken
from mep.engines.base import Call, Outcome
from mep.wire.seal import Stamp

log = logging.getLogger(__name__)

_REMEMBERED_IDS = 20_000
_SYNC_AFTER_S = 0.002
_SYNC_AFTER_MOST_S = 0.25
_RETRY_FULL_S = 5.0
_NO_STAMP = Stamp(b"", 0, 0.0)


class Stage(Enum):
    """How far a task is."""

    ACCEPTED = "accepted"
    STARTED = "started"
    FINISHED = "finished"  # its result is not confirmed by the broker yet
    FORGOTTEN = "forgotten"


@dataclass(slots=True)
class Entry:
    """A task that is not forgotten. `chars`: its call's, then its result's. `starts` counts over all lives."""

    stage: Stage
    chars: int = 0
    starts: int = 0
    durable: bool = False  # its acceptance is on disk


@dataclass(frozen=True)
class Recovered:
    """What an earlier user endpoint left: results to send, calls to run, calls it was running (how often)."""

    results: list[Outcome]
    waiting: list[Call]
    running: list[tuple[Call, int]]


class Ledger:
    """The book of tasks. `on_durable` is called when everything accepted so far may be acknowledged.

    `on_full` hears why when the journal takes no more, and "" when it does again.
    """

    def __init__(
        self, journal: Journal, *, on_durable: Callable[[], None], on_full: Callable[[str], None]
    ) -> None:
        self._journal = journal
        self._on_durable, self._on_full = on_durable, on_full
        self._live: dict[str, Entry] = {}
        self._past: OrderedDict[str, None] = OrderedDict()
        self._unwritten: list[Record] = []  # of this turn of the loop, or refused by a full disk
        self._flush_due = False
        self._undurable = 0  # live tasks whose acceptance is not on disk
        self._timer: asyncio.TimerHandle | None = None
        self.full = False
        self.backlog_chars = 0

    # ---- what is known ----

    @property
    def outstanding(self) -> int:
        """Return how many tasks are accepted and not answered."""
        return len(self._live)

    def stage(self, task_id: str) -> Stage | None:
        """Return how far the task is, None if it is not known."""
        entry = self._live.get(task_id)
        if entry is not None:
            return entry.stage
        return Stage.FORGOTTEN if task_id in self._past else None

    def starts(self, task_id: str) -> int:
        """Return how often the task was started, over all lives."""
        entry = self._live.get(task_id)
        return entry.starts if entry is not None else 0

    def replayed(self, stamp: Stamp) -> bool:
        """Tell whether this sealed message was taken before, by whichever life of this user endpoint."""
        return stamp in self._journal.taken

    def saw(self, stamp: Stamp) -> None:
        """A sealed message was answered, or ignored, without a task becoming ours."""
        self._journal.taken.add(stamp.sender, stamp.number)
        self._write_soon(Taken([(stamp.sender, [stamp.number, stamp.number])]))

    def settled(self) -> bool:
        """Tell whether everything taken so far may be acknowledged."""
        return self._undurable == 0

    def in_stage(self, stage: Stage) -> list[str]:
        """Return the ids of the live tasks that are so far."""
        return [task_id for task_id, entry in self._live.items() if entry.stage is stage]

    # ---- what happens ----

    def recover(self) -> Recovered:
        """Read the journal of an earlier user endpoint."""
        calls: dict[str, Call] = {}
        results: dict[str, Outcome] = {}
        for record in self._journal.recover():
            if isinstance(record, Accepted):
                calls[record.task_id] = Call(
                    record.task_id,
                    record.function_id,
                    record.buffer,
                    dict(record.resources),
                    tuple(record.serializers),
                )
                self._live[record.task_id] = Entry(Stage.ACCEPTED, len(record.buffer))
            elif isinstance(record, Started) and record.task_id in self._live:
                self._live[record.task_id].stage = Stage.STARTED
                self._live[record.task_id].starts += 1
            elif isinstance(record, Finished):
                results[record.task_id] = Outcome(record.task_id, record.body, record.code)
                calls.pop(record.task_id, None)
                self._live[record.task_id] = Entry(Stage.FINISHED, len(record.body))
            elif isinstance(record, Forgotten):
                for task_id in record.task_ids:
                    calls.pop(task_id, None)
                    results.pop(task_id, None)
                    self._live.pop(task_id, None)
                    self._remember(task_id)
        self.backlog_chars = sum(entry.chars for entry in self._live.values())
        self._undurable = len(self._live)
        if self._live:
            self._sync_soon()
        started = {task_id for task_id in calls if self._live[task_id].stage is Stage.STARTED}
        return Recovered(
            results=list(results.values()),
            waiting=[call for task_id, call in calls.items() if task_id not in started],
            running=[(calls[task_id], self._live[task_id].starts) for task_id in calls if task_id in started],
        )

    def accept(self, calls: Sequence[Call], stamps: Mapping[str, Stamp] | None = None) -> None:
        """Make the tasks ours. HostError(JOURNAL_FULL): none is. `stamps`: of those that came sealed."""
        records = [_record(call, (stamps or {}).get(call.task_id, _NO_STAMP)) for call in calls]
        try:
            self._journal.write(*self._unwritten, *records)
        except HostError as error:
            self._became_full(error)
            raise
        self._unwritten.clear()
        for call in calls:
            self._live[call.task_id] = Entry(Stage.ACCEPTED, len(call.buffer))
            self.backlog_chars += len(call.buffer)
        self._undurable += len(calls)
        self._sync_soon()

    def started(self, task_id: str) -> None:
        """The task is handed to a worker now."""
        entry = self._live.get(task_id)
        if entry is not None and entry.stage is not Stage.FINISHED:
            entry.stage = Stage.STARTED
            entry.starts += 1
            self._unwritten.append(Started(task_id, time.time()))
            self._flush()
            self._sync_soon()

    def finished(self, outcome: Outcome) -> None:
        """The task's result is there; publish it next."""
        entry = self._live.get(outcome.task_id)
        if entry is None:  # refused before it was accepted: its result is all there is to remember
            entry = self._live[outcome.task_id] = Entry(Stage.FINISHED)
            self._undurable += 1
        self.backlog_chars += len(outcome.body) - entry.chars
        entry.stage, entry.chars = Stage.FINISHED, len(outcome.body)
        self._write_soon(Finished(outcome.task_id, outcome.code, outcome.body))
        self._sync_soon()

    def forget(self, task_id: str) -> None:
        """The broker has its result."""
        entry = self._live.pop(task_id, None)
        if entry is not None:
            self.backlog_chars -= entry.chars
        self._remember(task_id)
        self._write_soon(Forgotten([task_id]))
        if entry is not None and not entry.durable:
            self._undurable -= 1
            if self._undurable == 0:
                self._on_durable()
        if not self._live and self._timer is not None:
            self._timer.cancel()  # nothing that a disk would have to remember
            self._timer = None
        if not self._live and self._journal.wasteful and not self.full:
            self._sync()

    def close(self) -> None:
        """Write the last records and close the journal."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        if self._live and self._journal.dirty:
            try:
                self._journal.sync()
            except HostError as error:
                log.error("%s", error.for_admin())
        self._journal.close()

    # ---- inside ----

    def _remember(self, task_id: str) -> None:
        self._past[task_id] = None
        if len(self._past) > _REMEMBERED_IDS:
            self._past.popitem(last=False)

    def _write_soon(self, record: Record) -> None:
        self._unwritten.append(record)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has come together. What a full disk refuses goes later, but for results: they are large."""
        self._flush_due = False
        if not self._unwritten or self.full:
            return
        try:
            self._journal.write(*self._unwritten)
            self._unwritten.clear()
        except HostError as error:
            self._unwritten = [record for record in self._unwritten if not isinstance(record, Finished)]
            self._became_full(error)

    def _sync_soon(self) -> None:
        if self._timer is None and not self.full:
            delay_s = min(max(_SYNC_AFTER_S, 3 * self._journal.last_sync_s), _SYNC_AFTER_MOST_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._sync)

    def _sync(self) -> None:
        self._timer = None
        self._flush()
        if self.full:
            return
        try:
            self._journal.sync()
        except HostError as error:
            self._became_full(error)
            return
        if self._undurable:
            for entry in self._live.values():
                entry.durable = True
            self._undurable = 0
            self._on_durable()

    def _became_full(self, error: HostError) -> None:
        if self.full:
            return
        self.full = True
        log.error("%s", error.for_admin())
        self._on_full(error.user_text)
        asyncio.get_running_loop().call_later(_RETRY_FULL_S, self._try_again)

    def _try_again(self) -> None:
        self._unwritten = [record for record in self._unwritten if not isinstance(record, Finished)]
        try:
            self._journal.write(*self._unwritten, Forgotten([]))
            self._journal.sync()
        except HostError:
            asyncio.get_running_loop().call_later(_RETRY_FULL_S, self._try_again)
            return
        self._unwritten.clear()
        self.full = False
        log.info("journal: can be written again")
        self._on_full("")
        self._sync()


def _record(call: Call, stamp: Stamp) -> Accepted:
    serializers = list(call.serializers)
    return Accepted(
        call.task_id, call.function_id, call.buffer, call.resources, serializers, stamp.sender, stamp.number
    )
