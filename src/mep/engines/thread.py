"""ThreadPoolEngine: tasks run in threads of the user endpoint itself. Lightest, no isolation between tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections import deque
from typing import Any

from mep.base.codes import Code
from mep.base.errors import TaskError
from mep.config import engines as settings
from mep.engines.base import Call, Outcome, Surroundings, failure, refuse_resources
from mep.engines.benches import make_bench
from mep.engines.hostfacts import pool_facts
from mep.engines.worker import Bench, execute, flush_output
from mep.wire.taskevents import Place

log = logging.getLogger(__name__)


class ThreadPoolEngine:
    """At most `workers` threads, each started when there is first something for it to do.

    The loop's thread decides who runs what, so that it knows which calls have started; a thread only ever holds
    the one call it runs.
    """

    kind = "ThreadPoolEngine"

    def __init__(self, surroundings: Surroundings, bench: Bench, *, workers: int | None = None) -> None:
        self._around = surroundings
        self._bench = bench
        self.workers = workers or min(32, (os.cpu_count() or 1) + 4)
        self._waiting: deque[Call] = deque()
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._threads = 0
        self._running = 0
        self._held = self._stopped = False
        self._place = Place(os.getpid())
        self._narrow = False  # fewer threads than wanted could be started
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_config(cls, config: settings.ThreadPoolEngine, around: Surroundings) -> ThreadPoolEngine:
        """Return the engine that the template describes."""
        return cls(around, make_bench(config, around, owns_process=False), workers=config.max_workers)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._bench.working_dir:
            os.chdir(self._bench.working_dir)

    def submit(self, call: Call) -> None:
        refusal = refuse_resources(call, self.kind)
        if refusal is not None:
            self._around.on_done(refusal)
            return
        self._waiting.append(call)
        self._hand_out()

    def facts(self) -> dict[str, Any]:
        return pool_facts(self.kind, self.workers, pending=len(self._waiting), running=self._running)

    def hold(self) -> None:
        self._held = True

    async def stop(self, grace_s: float) -> None:
        """Threads cannot be ended from outside: what still runs ends with the process."""
        self._held = self._stopped = True
        self._waiting.clear()
        for _ in range(self._threads):
            self._inbox.put(None)

    # ---- on the loop's thread ----

    def _hand_out(self) -> None:
        while self._waiting and self._running < self.workers and not self._held:
            if self._running == self._threads and not self._one_more():
                if self._threads == 0:
                    self._refuse_waiting()
                return  # whoever finishes first goes on
            call = self._waiting.popleft()
            self._running += 1
            self._around.on_start(call.task_id)
            self._inbox.put(call)
            self._around.on_running(call.task_id, self._place)

    def _one_more(self) -> bool:
        """Start a thread; False if the account's limit of processes forbids it: then fewer must do."""
        name = f"worker-{self._threads + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError as error:
            if not self._narrow:
                self._narrow = True
                log.warning("%s cannot be started: %s; %d do the work", name, error, self._threads)
            return False
        self._threads += 1
        return True

    def _refuse_waiting(self) -> None:
        code = Code.LIMIT_EXCEEDED
        text = TaskError(code, "No thread can be started: the limit of processes is reached.").for_user()
        while self._waiting:
            call = self._waiting.popleft()
            self._around.on_done(failure(call.task_id, code.value, text))

    def _finished(self, outcome: Outcome) -> None:
        self._running -= 1
        if self._stopped:
            return
        self._around.on_done(outcome)  # first: its record and the next start's share one write
        self._hand_out()

    # ---- in a worker thread ----

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        while (call := self._inbox.get()) is not None:
            code, body = execute(call.buffer, call.task_id, call.serializers, self._bench)
            if os.getpid() != self._place.pid:
                os._exit(0)  # the function forked and its child came back here: this is no user endpoint
            flush_output()
            outcome = Outcome(call.task_id, body, code)
            del call, body
            try:
                loop.call_soon_threadsafe(self._finished, outcome)
            except RuntimeError:
                return  # the loop is closed: the user endpoint has gone on without us
