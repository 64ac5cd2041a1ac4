"""The futures that wait for results, by task id. Thread-safe; knows nothing of how results come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager

from mep.sdk.futures import ComputeFuture
from mep.sdk.outcome import Outcome
from mep.wire.envelope import Result

log = logging.getLogger(__name__)


class Pending:
    """Futures that wait, and results that came before the submit's answer told whose they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, ComputeFuture] = {}
        self._early: dict[str, tuple[Result, str]] = {}
        self._expecting = 0  # submits under way

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While a submit is under way, results of unknown tasks are kept."""
        with self._lock:
            self._expecting += 1
        try:
            yield
        finally:
            with self._lock:
                self._expecting -= 1
                if not self._expecting:
                    self._early.clear()

    @property
    def submitting(self) -> bool:
        """Tell whether a submit is under way."""
        return self._expecting > 0

    def add(self, tasks: Mapping[str, ComputeFuture]) -> list[tuple[Result, str]]:
        """Wait for these; returns the results (and their completion times) that are here already."""
        with self._lock:
            self._waiting.update(tasks)
            return [self._early.pop(task) for task in tasks if task in self._early]

    def arrived(self, result: Result, completion_t: str) -> bool:
        """Tell whether a future waits for this result; if not, keep it while a submit is under way."""
        with self._lock:
            if result.task_id in self._waiting:
                return True
            if self._expecting:
                self._early[result.task_id] = (result, completion_t)
            return False

    def settle(self, task_id: str, outcome: Outcome) -> None:
        """Complete the task's future, if one waits and the user has not cancelled it."""
        with self._lock:
            future = self._waiting.get(task_id)
        if future is None:
            return
        try:
            if outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome.value)
        except Exception:
            log.debug("%s was settled already", task_id, exc_info=True)
        with self._lock:
            self._waiting.pop(task_id, None)

    def find(self, task_id: str) -> ComputeFuture | None:
        """Return the future that waits for this task, if there is one."""
        with self._lock:
            return self._waiting.get(task_id)

    def task_ids(self) -> list[str]:
        """Return the tasks that are waited for; those that the user cancelled are forgotten here."""
        with self._lock:
            for task_id in [task for task, future in self._waiting.items() if future.cancelled()]:
                del self._waiting[task_id]
            return list(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def futures(self) -> list[ComputeFuture]:
        """Return the futures that wait."""
        with self._lock:
            return list(self._waiting.values())

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every future that waits now is done; tell whether that came about in time."""
        return not wait(self.futures(), timeout_s).not_done

    def after_fork(self) -> None:
        """In a forked child: locks may be held by threads that do not exist here."""
        self._lock = threading.Lock()


def fail(futures: Iterable[ComputeFuture], error: Exception) -> None:
    """Give the error to those of the futures that are still open."""
    for future in futures:
        try:
            if not future.done():
                future.set_exception(error)
        except Exception:
            log.debug("a future was settled already", exc_info=True)
