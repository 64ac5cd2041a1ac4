"""GlobusComputeEngine and GlobusMPIEngine: tasks run on workers that Parsl places, here or in batch jobs."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - see `stop`
import dataclasses
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from parsl.executors.errors import BadStateException
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from mep.base.codes import Code
from mep.base.errors import TaskError
from mep.config import engines as settings
from mep.engines.base import Call, Outcome, Surroundings, engine_failed, failure
from mep.engines.benches import make_bench
from mep.engines.ear import Ear
from mep.engines.losses import Losses
from mep.engines.lost import MemoryEvents, worker_lost
from mep.engines.parslbuild import Executor, build_executor, scaling
from mep.engines.parslfacts import parsl_facts
from mep.engines.parslplaces import place_of, place_of_loss
from mep.engines.parslscaler import Scaler
from mep.engines.worker import REMOTE_ERROR, Bench

log = logging.getLogger(__name__)

_RUN = "mep.engines.parslworker.run"
_STOP_WITHIN_S = 12.0
_KEPT_RUNS = 3
_LEAST_IN_FLIGHT = 64


class GlobusComputeEngine:
    """Parsl's HighThroughputExecutor, driven without Parsl's own kernel.

    Parsl does not tell when a call starts, so a call counts as started when Parsl gets it. It gets at most twice
    what all blocks together could run; the rest waits here, and would survive the user endpoint's death.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        bench: Bench,
        executor: Executor,
        *,
        kind: str,
        scaling: dict[str, Any],
        retries: int,
    ) -> None:
        self.kind = kind
        self._around = surroundings
        self._bench = dataclasses.asdict(bench)
        self._executor = executor
        self._waiting: deque[Call] = deque()
        self._flying: dict[str, Call] = {}
        self._losses = Losses(retries, surroundings.may_rerun)
        self._memory = MemoryEvents()
        self._managers: list[dict[str, Any]] = []
        self._blocks: dict[str, str] = {}  # of each manager that was ever seen
        self._ear: Ear | None = None
        self._begun_ids: set[str] = set()  # of those that fly
        self._held = self._stopped = self._broken = False
        self._total = 0
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._scaler = Scaler(
            executor,
            scaling,
            on_started=lambda error: self._on_loop(self._on_started, error),
            on_polled=lambda managers: self._on_loop(self._on_polled, managers),
        )

    @classmethod
    def from_config(cls, config: settings.ParslEngine, around: Surroundings) -> GlobusComputeEngine:
        """Return the engine that the template describes."""
        bench = make_bench(config, around, owns_process=True)
        executor = build_executor(config, run_dir=_fresh_run_dir(around.state_dir))
        return cls(
            around,
            bench,
            executor,
            kind=config.type,  # type: ignore[attr-defined] # each engine's settings class has its own
            scaling=scaling(config),
            retries=config.max_retries_on_system_failure,
        )

    @property
    def workers(self) -> int:
        provider: Any = self._executor.provider
        configured = self._executor.workers_per_node * provider.nodes_per_block * max(1, provider.max_blocks)
        return max(int(configured), sum(int(m.get("worker_count", 0)) for m in self._managers))

    async def start(self) -> None:
        self._ear = Ear(self._around.state_dir, self._begun)
        self._bench["ear"] = self._ear.path
        self._executor.fork_interchange()  # before there is a second thread
        self._scaler.start()
        await asyncio.shield(self._started)

    def submit(self, call: Call) -> None:
        try:
            self._executor.validate_resource_spec(call.resources)
        except Exception as error:  # noqa: BLE001 - each executor has its own kinds
            self._around.on_done(failure(call.task_id, REMOTE_ERROR, _resource_text(call, self.kind, error)))
            return
        self._waiting.append(call)
        self._hand_out()

    def facts(self) -> dict[str, Any]:
        return parsl_facts(
            self.kind, self._executor, self._managers, waiting=len(self._waiting), flying=len(self._flying)
        ) | {"total_tasks": self._total}

    def hold(self) -> None:
        self._held = True

    async def stop(self, grace_s: float) -> None:
        if self._stopped:
            return
        self._held = self._stopped = True
        self._waiting.clear()
        self._scaler.stop()
        # `to_thread` would import the thread pool at its first use, which registers hooks for forks: one that the
        # scaler makes at that moment would run the second hook without the first, and release a lock of ours
        ended = await asyncio.to_thread(self._scaler.join, _STOP_WITHIN_S)
        if self._ear is not None:
            self._ear.close()
        if not ended:
            log.error("stop: Parsl did not end within %.0f s", _STOP_WITHIN_S)

    # ---- on the loop ----

    def _hand_out(self) -> None:
        most = max(_LEAST_IN_FLIGHT, 2 * self.workers)
        before = len(self._flying)
        while self._waiting and not self._held and len(self._flying) < most:
            call = self._waiting.popleft()
            self._around.on_start(call.task_id)
            self._fly(call)
        if self._flying and not before and not self._managers:
            self._scaler.poke()

    def _fly(self, call: Call) -> None:
        context: dict[str, Any] = {
            "task_executor": {"f": _RUN, "a": (call.task_id, list(call.serializers), self._bench), "k": {}}
        }
        if call.resources:
            context["resource_spec"] = call.resources
        self._flying[call.task_id] = call
        self._total += 1
        try:
            future = self._executor.submit_payload(context, call.buffer.encode())
        except Exception as error:  # noqa: BLE001 - the executor is broken and says why
            self._loop.call_soon(self._landed, call, None, error)
            return
        future.add_done_callback(partial(self._on_future, call))

    def _begun(self, where: dict[str, Any]) -> None:
        task_id = where.get("task")
        if isinstance(task_id, str) and task_id in self._flying and task_id not in self._begun_ids:
            self._begun_ids.add(task_id)
            self._around.on_running(task_id, place_of(where, self._executor.blocks_to_job_id)[0])

    def _landed(self, call: Call, value: Any, error: BaseException | None) -> None:
        if self._stopped or self._flying.pop(call.task_id, None) is None:
            return
        told = call.task_id in self._begun_ids
        self._begun_ids.discard(call.task_id)
        if error is None:
            code, body, *more = value  # `more`: not from workers with an older mep
            self._losses.forget(call.task_id)
            place, ran_at = place_of(more[0] if more else {}, self._executor.blocks_to_job_id)
            self._around.on_done(Outcome(call.task_id, bytes(body), code, place, 0.0 if told else ran_at))
            self._hand_out()
            return
        self._lost_or_failed(call, error)
        self._hand_out()
        if self._executor.bad_state_is_set and not self._broken:
            self._broken = True
            self._around.on_broken(f"{self.kind}: {_words(self._executor.executor_exception)}")

    def _lost_or_failed(self, call: Call, error: BaseException) -> None:
        lost = isinstance(error, WorkerLost | ManagerLost)
        by_memory = self._memory.killed() if lost else ""  # of workers on this host; of others nobody tells
        if not self._executor.bad_state_is_set and self._losses.again(
            call.task_id, by_memory=bool(by_memory), lost=lost
        ):
            if not self._held:
                self._waiting.appendleft(call)
                return
            if self._around.may_rerun(call.task_id):
                return  # the next user endpoint finds it in the journal
        self._losses.forget(call.task_id)
        lost_at = place_of_loss(error, self._blocks, self._executor.blocks_to_job_id)
        self._around.on_done(dataclasses.replace(self._failed(call, error, by_memory), place=lost_at))

    def _failed(self, call: Call, error: BaseException, by_memory: str) -> Outcome:
        if isinstance(error, WorkerLost | ManagerLost):
            why = by_memory or "it was killed, ran out of memory, or its node or job ended"
            code, text = worker_lost(f"{_words(error)}: {why}.", by_memory=by_memory)
        elif isinstance(error, BadStateException) or self._executor.bad_state_is_set:
            code = Code.ENGINE_FAILED.value
            why = _words(self._executor.executor_exception or error)
            text = TaskError(Code.ENGINE_FAILED, f"{self.kind} has no workers: {why}").for_user()
        elif isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "mep":
            code = REMOTE_ERROR
            text = (
                "The workers' Python has no mep. Install mep in the environment that worker_init activates. "
                f"({_words(error)})"
            )
        else:
            code, text = REMOTE_ERROR, f"{type(error).__name__}: {_words(error)}"
        return failure(call.task_id, code, text)

    def _on_started(self, error: BaseException | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(
                engine_failed(self.kind, _words(error), admin=f"{type(error).__name__}: {error}")
            )

    def _on_polled(self, managers: list[dict[str, Any]]) -> None:
        self._managers = managers
        self._blocks.update({str(m.get("manager")): str(m.get("block_id")) for m in managers})
        self._hand_out()

    # ---- in Parsl's threads ----

    def _on_future(self, call: Call, future: Future[Any]) -> None:
        error = future.exception()
        self._on_loop(self._landed, call, None if error else future.result(), error)

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody is interested any more


class GlobusMPIEngine(GlobusComputeEngine):
    """The same on Parsl's MPIExecutor, which gives each task the nodes it asks for."""


def _resource_text(call: Call, kind: str, error: Exception) -> str:
    names = ", ".join(sorted(call.resources)) or "empty"
    return f"{kind} refuses this resource_specification ({names}): {_words(error)}"


def _words(error: BaseException | None) -> str:
    return str(error).strip()[:2000] or type(error).__name__


def _fresh_run_dir(state_dir: str) -> str:
    """Return a new directory for Parsl's files and logs; only the last few are kept."""
    parent = os.path.join(state_dir, "parsl")
    os.makedirs(parent, mode=0o700, exist_ok=True)
    for old in sorted(os.listdir(parent))[: -(_KEPT_RUNS - 1)]:
        shutil.rmtree(os.path.join(parent, old), ignore_errors=True)
    run_dir = os.path.join(parent, f"{time.time_ns():020d}")
    os.mkdir(run_dir, 0o700)
    return run_dir
