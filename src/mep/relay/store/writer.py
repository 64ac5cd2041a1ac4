"""One thread that writes: requests that arrive while a commit runs share the next one, and its fsync."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)
T = TypeVar("T")
_Job = tuple[Callable[[Connection], Any], "asyncio.Future[Any] | None"]

_MOST_IN_ONE_COMMIT = 256
_LATER_S = 0.25  # how long a write that nobody waits for may look for company


class Writer:
    """Runs functions of a connection in the order given, many in one transaction.

    If one of a batch fails, the batch is rolled back and each runs in a transaction of its own: a function
    may therefore run twice, and must have no effect beyond the database.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop = engine, loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="relay writer", daemon=True)
        self._thread.start()

    def write(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Queue `job`; the future has its value once it is committed to disk."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((job, future))
        return future

    def write_later(self, job: Callable[[Connection], object]) -> None:
        """Queue a job nobody waits for: it rides with the next commit, or gets one of its own after a moment.
        Failures are logged."""
        self._jobs.put((job, None))

    def close(self) -> None:
        """Finish what is queued, then end."""
        self._jobs.put(None)
        self._thread.join(30.0)

    # ---- the thread ----

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch, going_on = self._next_batch()
            self._commit(batch)

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Return what is to be committed together, and whether there may be more."""
        batch: list[_Job] = []
        awaited, deadline = False, 0.0
        while len(batch) < _MOST_IN_ONE_COMMIT:
            try:
                if not batch:
                    job = self._jobs.get()
                    deadline = time.monotonic() + _LATER_S
                elif awaited:
                    job = self._jobs.get_nowait()
                else:
                    job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return batch, False
            batch.append(job)
            awaited = awaited or job[1] is not None
        return batch, True

    def _commit(self, jobs: list[_Job]) -> None:
        outcomes: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                outcomes = [(future, job(connection), None) for job, future in jobs]
        except Exception:  # noqa: BLE001 - whose fault it was shows when each runs alone
            outcomes = [self._alone(job, future) for job, future in jobs]
        try:
            self._loop.call_soon_threadsafe(_settle, outcomes)
        except RuntimeError:
            log.debug("the loop is gone; %d writes were committed unheard", len(outcomes))

    def _alone(
        self, job: Callable[[Connection], Any], future: asyncio.Future[Any] | None
    ) -> tuple[asyncio.Future[Any] | None, Any, BaseException | None]:
        try:
            with self._engine.begin() as connection:
                return future, job(connection), None
        except Exception as error:
            if future is None:
                log.exception("a write failed")
            return future, None, error


def _settle(outcomes: list[tuple[asyncio.Future[Any] | None, Any, BaseException | None]]) -> None:
    for future, value, error in outcomes:
        if future is None or future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
