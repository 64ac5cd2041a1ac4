"""ProcessPoolEngine: tasks run in forked workers; what kills a worker fails the one task that it ran."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from typing import Any

from mep.config import engines as settings
from mep.engines.base import Call, Outcome, Surroundings, failure, refuse_resources
from mep.engines.benches import make_bench
from mep.engines.hostfacts import pool_facts
from mep.engines.losses import Losses
from mep.engines.lost import MemoryEvents, how_it_ended, worker_lost
from mep.engines.worker import Bench
from mep.engines.workerlink import WorkerGone, WorkerLink
from mep.wire.taskevents import Place

log = logging.getLogger(__name__)

_FORK_AGAIN_S = 0.5
_FORK_FAILURES_PER_TASK = 10


class ProcessPoolEngine:
    """At most `workers` workers; after the first, each is forked when there is work and no other is idle."""

    kind = "ProcessPoolEngine"

    def __init__(
        self,
        surroundings: Surroundings,
        bench: Bench,
        *,
        workers: int | None = None,
        calls_per_worker: int | None = None,
        retries: int = 0,
    ) -> None:
        self._around, self._bench = surroundings, bench
        self.workers = workers or os.cpu_count() or 1
        self._calls_per_worker = calls_per_worker
        self._waiting: deque[Call] = deque()
        self._links: list[WorkerLink] = []
        self._idle: list[WorkerLink] = []
        self._losses = Losses(retries, surroundings.may_rerun)
        self._memory = MemoryEvents()
        self._fork_failures = 0
        self._held = self._stopped = False

    @classmethod
    def from_config(cls, config: settings.ProcessPoolEngine, around: Surroundings) -> ProcessPoolEngine:
        """Return the engine that the template describes."""
        return cls(
            around,
            make_bench(config, around, owns_process=True),
            workers=config.max_workers,
            calls_per_worker=config.max_tasks_per_child,
            retries=config.max_retries_on_system_failure,
        )

    async def start(self) -> None:
        """Fork the first worker now, while others wait for the broker: the first call finds it ready."""
        try:
            self._idle.append(self._fork())
        except OSError as error:
            log.error("cannot fork a worker: %s", error.strerror)

    def submit(self, call: Call) -> None:
        refusal = refuse_resources(call, self.kind)
        if refusal is not None:
            self._around.on_done(refusal)
            return
        self._waiting.append(call)
        self._hand_out()

    def facts(self) -> dict[str, Any]:
        return pool_facts(self.kind, self.workers, pending=len(self._waiting), running=self._running())

    def hold(self) -> None:
        self._held = True

    async def stop(self, grace_s: float) -> None:
        self._held = self._stopped = True
        self._waiting.clear()
        links, self._links = self._links, []
        self._idle.clear()
        for link in links:
            link.kill()
        for link in links:
            link.reap()

    # ---- inside ----

    def _running(self) -> int:
        return len(self._links) - len(self._idle)

    def _hand_out(self) -> None:
        while self._waiting and not self._held:
            if not self._idle and len(self._links) >= self.workers:
                return
            try:
                link = self._idle.pop() if self._idle else self._fork()
            except OSError as error:
                self._cannot_fork(error)
                return
            call = self._waiting.popleft()
            self._around.on_start(call.task_id)
            try:
                link.run(call)
            except WorkerGone:
                self._waiting.appendleft(call)  # it never got there; the pidfd tells the rest
            else:
                self._around.on_running(call.task_id, Place(link.pid))

    def _fork(self) -> WorkerLink:
        link = WorkerLink(
            self._bench, title=self._around.title, on_outcome=self._on_outcome, on_death=self._on_death
        )
        self._links.append(link)
        self._fork_failures = 0
        return link

    def _cannot_fork(self, error: OSError) -> None:
        """Use the workers that are there and try again soon; without any, the first in line pays after a while."""
        self._fork_failures += 1
        log.error("cannot fork a worker: %s", error.strerror)
        asyncio.get_running_loop().call_later(_FORK_AGAIN_S, self._hand_out)
        if not self._links and self._fork_failures % _FORK_FAILURES_PER_TASK == 0:
            call = self._waiting.popleft()
            code, text = worker_lost(f"No worker could be started for this task: {error.strerror}.")
            self._around.on_done(failure(call.task_id, code, text))

    def _on_outcome(self, link: WorkerLink, outcome: Outcome) -> None:
        self._losses.forget(outcome.task_id)
        if self._calls_per_worker and link.calls_done >= self._calls_per_worker:
            self._links.remove(link)
            link.dismiss()
        else:
            self._idle.append(link)
        self._around.on_done(outcome)  # first: its record and the next start's share one write
        self._hand_out()

    def _on_death(self, link: WorkerLink, status: int) -> None:
        if self._stopped:
            return
        if link in self._links:
            self._links.remove(link)
        if link in self._idle:
            self._idle.remove(link)
        call = link.call
        if call is not None:
            self._lost(call, link.pid, status)
        self._hand_out()

    def _lost(self, call: Call, pid: int, status: int) -> None:
        by_memory = self._memory.killed() if status == -signal.SIGKILL else ""
        text = f"The worker (pid {pid}) that ran this task {how_it_ended(status, by_memory=by_memory)}."
        log.warning("task %s: %s", call.task_id, text)
        if self._losses.again(call.task_id, by_memory=bool(by_memory)):
            if not self._held:
                self._waiting.appendleft(call)
                return
            if self._around.may_rerun(call.task_id):
                return  # the next user endpoint finds it in the journal
        losses = self._losses.forget(call.task_id)
        if losses > 1:
            text += f" It was tried {losses} times."
        code, full = worker_lost(text, by_memory=by_memory)
        self._around.on_done(failure(call.task_id, code, full))
