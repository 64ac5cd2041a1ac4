"""Tasks that end by the relay's word: the start failed, nobody came back, nobody came at all."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from mep.base.codes import Code, next_step
from mep.base.errors import ServiceError
from mep.relay import results
from mep.relay.amqp import RelayBroker
from mep.relay.clocks import iso
from mep.relay.fleet import Fleet, Uep
from mep.relay.store import tasks, ueps

if TYPE_CHECKING:
    from mep.relay.results import Results

log = logging.getLogger(__name__)


class Endings:
    """Fails unfinished tasks, each with one error that says what happened."""

    def __init__(self, fleet: Fleet, results: Results, broker: RelayBroker) -> None:
        self._fleet, self._results, self._broker = fleet, results, broker

    async def fail(
        self,
        uep: Uep,
        code: Code | str,
        text: str,
        *,
        purge: bool | None = False,
        before: float | None = None,
        published: bool = False,
    ) -> None:
        """Fail what `uep` owes (or what came before that Unix time; with `published`, what was handed to the
        broker). With `purge` its queue is emptied, too (None: only if it owes nothing else); submits that arrive
        meanwhile wait, so that none of theirs is purged."""
        while uep.settling is not None:
            await asyncio.shield(uep.settling)
        if not uep.open:
            return
        uep.settling = settling = asyncio.get_running_loop().create_future()
        try:
            if purge is not False:
                await self._quiet(uep)
            ids = await self._fleet.store.read_much(lambda c: tasks.open_task_ids(c, uep.id, before=before))
            if published and ids:
                since = time.time() - self._fleet.settings.repeat_window_s
                kept = await self._fleet.store.read_much(lambda c: tasks.unpublished_task_ids(c, since))
                ids = [task_id for task_id in ids if task_id not in kept]
            if purge or (purge is None and len(ids) == uep.open):
                await self._purge(uep)
            if not ids:
                return
            log.warning("user endpoint %s: failing %d tasks: %s: %.300s", uep.id, len(ids), code, text)
            await self._results.settle([results.failure(i, code, _worded(code, text)) for i in ids])
        finally:
            uep.settling = None
            settling.set_result(None)

    async def _purge(self, uep: Uep) -> None:
        try:
            await self._broker.purge_tasks(uep.id)
        except ServiceError as error:
            log.warning("queue of %s not purged: %s", uep.id, error.for_admin())

    async def _quiet(self, uep: Uep) -> None:
        """Wait until every submit that was stored is also published."""
        if uep.inflight:
            uep.quiet = asyncio.Event()
            await uep.quiet.wait()
            uep.quiet = None


class Expiry:
    """Ends tasks that waited too long for an endpoint that is away. One timer: for the oldest."""

    def __init__(self, fleet: Fleet, endings: Endings) -> None:
        self._fleet, self._endings = fleet, endings
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")

    async def load(self) -> None:
        """Look for the oldest waiting task."""
        oldest = await self._fleet.store.read_much(tasks.oldest_open)
        if oldest:
            self.watch(min(oldest.values()))

    def watch(self, created: float) -> None:
        """A task was created at that Unix time."""
        due = created + self._fleet.settings.task_ttl_s
        if due < self._due:
            self._due = due
            if self._timer is not None:
                self._timer.cancel()
            delay_s = min(max(due - time.time(), 0.05), 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self._timer, self._due = None, float("inf")
        self._fleet.spawn(self._sweep(), name="expiry")

    async def _sweep(self) -> None:
        now, ttl_s = time.time(), self._fleet.settings.task_ttl_s
        next_look = []
        for uep_id, created in (await self._fleet.store.read_much(tasks.oldest_open)).items():
            uep = self._fleet.ueps.get(uep_id)
            if uep is None:
                continue
            if created + ttl_s > now:
                next_look.append(created)
            elif uep.state == "up":
                next_look.append(now - ttl_s + min(ttl_s, 3600.0))  # it is being worked on: look again later
            else:
                await self._expire(uep, now - ttl_s)
                next_look.append(now)
        if next_look:
            self.watch(min(next_look))

    async def _expire(self, uep: Uep, before: float) -> None:
        """End what came before that time, and say of each task whether it may have begun: only a user endpoint
        that was there after it came can have taken it. Where something younger keeps the queue from being emptied,
        a late taker's results are ignored."""
        record = await self._fleet.store.write(lambda c: ueps.find(c, uep.id))  # after all writes of before
        last_seen = record.last_seen if record is not None else before
        ttl_s = self._fleet.settings.task_ttl_s
        if last_seen:
            text = (
                f"This task may have begun: its user endpoint, last heard of at {iso(last_seen)}, "
                f"has not come back within {ttl_s:.0f} s."
            )
            # one that reconnects takes tasks before its next report is due
            there = last_seen + self._fleet.silence_s(uep)
            await self._endings.fail(uep, Code.TASK_LOST, text, before=min(before, there), purge=None)
        text = f"No endpoint took this task within {ttl_s:.0f} s: the endpoint is offline. It has not begun."
        await self._endings.fail(uep, Code.TASK_EXPIRED, text, before=before, purge=None)


def _worded(code: Code | str, text: str) -> str:
    """Return the text a user is shown: the code, what happened, what to do; a text that has its code stays."""
    known = next((c for c in Code if c.value == str(code)), None)
    if known is None or text.startswith(known.value):
        return text
    step = next_step(known).user
    return f"{known.value}: {text}" + (f" {step}" if step else "")
