"""Asking the relay for results over HTTP: while the broker is away, and now and then when it is silent."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from mep.base.errors import MepError
from mep.sdk.client import Client
from mep.sdk.errors import ComputeAPIError
from mep.sdk.http import not_understood
from mep.sdk.outcome import Outcome, of_document
from mep.sdk.pending import Pending
from mep.serialize import Serializer

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_AWAY_FIRST_S: Final = 2.0
_AWAY_MOST_S: Final = 15.0
_QUIET_FIRST_S: Final = 60.0
_QUIET_MOST_S: Final = 600.0
_HINT_FIRST_S: Final = 0.05
_HINT_MOST_S: Final = 5.0
_AT_ONCE: Final = 100  # results that are fetched in one answer: each may be large
_HINTS_MOST: Final = 10_000  # tasks; above it all are asked for
_MISSING_MOST: Final = 3  # answers in a row that do not know a task: then it is gone


class Asking:
    """Runs on the result stream's loop. Waits on events; asks only when nothing was heard for a while."""

    def __init__(
        self,
        client: Client,
        pending: Pending,
        serializer: Callable[[], Serializer],
        streaming: Callable[[], bool],
        refresh_url: Callable[[], Awaitable[None]],
    ) -> None:
        self._client, self._pending, self._serializer = client, pending, serializer
        self._streaming, self._refresh_url = streaming, refresh_url
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._last_news = self._loop.time()
        self._missing: dict[str, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._hinted: set[str] | None = set()  # None: any task may have its result
        self._hint_s = _HINT_FIRST_S
        self._hint_timer: asyncio.TimerHandle | None = None
        self._following = False  # hints: one question at a time
        self._owed: set[str] = set()  # tasks whose results are there, and are to be fetched

    def wake(self) -> None:
        """Something changed: think again about when to ask."""
        self._woken.set()

    def news(self) -> None:
        """The stream delivered something: it is alive."""
        self._last_news = self._loop.time()

    def fetch(self, task_id: str) -> None:
        """The relay has this task's result and does not push it: it is asked until it is here."""
        self._owed.add(task_id)
        self.hint([task_id])

    def hint(self, task_ids: Iterable[str] | None) -> None:
        """Somebody says that these (None: some) have results. It may be anybody: soon the relay is asked; whoever
        says so for nothing is heard less and less often."""
        if task_ids is None or self._hinted is None or len(self._hinted) > _HINTS_MOST:
            self._hinted = None
        else:
            self._hinted.update(task_ids)
        if self._hint_timer is None and not self._following:
            self._hint_timer = self._loop.call_later(self._hint_s, self._follow_hints)

    def _follow_hints(self) -> None:
        self._hint_timer = None
        submitting = self._pending.submitting  # asked first: what ends meanwhile is among those that wait
        waiting, hinted = self._pending.task_ids(), self._hinted
        asked = waiting if hinted is None else [task for task in waiting if task in hinted]
        self._hinted = set()
        if asked:
            self._following = True
            task = self._loop.create_task(self._ask_for_hints(asked))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if submitting:  # some may be of tasks whose ids we have not been told yet
            self.hint(None if hinted is None else hinted.difference(asked))
        else:
            self._owed.intersection_update(waiting)

    async def _ask_for_hints(self, task_ids: list[str]) -> None:
        try:
            for start in range(0, len(task_ids), _AT_ONCE):
                await self._ask(task_ids[start : start + _AT_ONCE])
        finally:
            self._following = False
        here = [task for task in task_ids if self._pending.find(task) is None]
        self._hint_s = _HINT_FIRST_S if here else min(2 * self._hint_s, _HINT_MOST_S)
        self._owed.difference_update(here)
        if self._owed or self._hinted is None or self._hinted:
            self.hint(self._owed)

    async def run(self) -> None:
        """Never returns; cancel it."""
        from mep.broker.backoff import Backoff  # here, because its room loads the AMQP library

        away = Backoff(_AWAY_FIRST_S, _AWAY_MOST_S)
        away_s, quiet_s = away.next_s(), _QUIET_FIRST_S
        while True:
            self._woken.clear()
            if not self._pending:
                await self._woken.wait()
                self.news()  # what is waited for now is young
                away.reset()
                away_s, quiet_s = away.next_s(), _QUIET_FIRST_S
                continue
            streaming = self._streaming()
            due = self._last_news + (quiet_s if streaming else away_s)
            try:
                # not wait_for: in Python 3.11 that one swallows a cancel that comes together with the event
                async with asyncio.timeout(max(due - self._loop.time(), 0.0)):
                    await self._woken.wait()
                continue
            except TimeoutError:
                pass
            if streaming != self._streaming():
                continue
            await self._ask(self._pending.task_ids())
            self.news()
            if streaming:
                quiet_s = min(quiet_s * 2, _QUIET_MOST_S)
            else:
                away_s = away.next_s()
                await self._try_fresh_url()

    async def _try_fresh_url(self) -> None:
        """The broker may refuse us because our credentials were replaced."""
        try:
            await self._refresh_url()
        except MepError as error:
            log.debug("no fresh address of the result stream: %s", error)

    async def _ask(self, task_ids: list[str]) -> None:
        if not task_ids:
            return
        try:
            documents = await in_thread(lambda: self._client.get_task_documents(task_ids))
        except MepError as error:
            log.warning("cannot ask for %d results: %s", len(task_ids), error)
            if isinstance(error, ComputeAPIError) and error.http_status == 401:
                # nobody can get these results with what we have; waiting would be for ever
                for task_id in task_ids:
                    self._pending.settle(task_id, Outcome(error=error))
            return
        for task_id in task_ids:
            self._take(task_id, documents.get(task_id))

    def _take(self, task_id: str, document: dict[str, Any] | None) -> None:
        if document is None:
            self._missing[task_id] = self._missing.get(task_id, 0) + 1
            if self._missing[task_id] < _MISSING_MOST:
                return
            error = ComputeAPIError(404, "TASK_NOT_FOUND", f"The relay does not know the task {task_id}.")
            outcome: Outcome | None = Outcome(error=error)
        else:
            try:
                outcome = of_document(document, self._serializer())
            except Exception as error:  # noqa: BLE001 - whatever the relay says, the others are asked for again
                outcome = Outcome(error=not_understood("the question for a result", repr(error)[:200]))
        if outcome is not None:
            self._missing.pop(task_id, None)
            self._pending.settle(task_id, outcome)


def in_thread(function: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run `function` in a thread of its own that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type] # a value where there is no error

    def work() -> None:
        value: _T | None = None
        error: Exception | None = None
        try:
            value = function()
        except Exception as caught:  # noqa: BLE001 - handed to whoever awaits
            error = caught
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            log.debug("the loop has ended before its question was answered")

    threading.Thread(target=work, name="mep-http", daemon=True).start()
    return future
