"""Recognising a submit that is sent again.

Stock clients repeat an unanswered submit up to six times, with no key: such a repeat has the same identity,
endpoint and body, and joins the attempt that could not be answered. If that attempt is still running, the repeat
waits to see whether its caller is still there: two callers who say the same at the same time are two submits.
With an Idempotency-Key the stored answer is given, whenever it is asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Awaitable, Callable

from msgspec import Struct, structs
from sqlalchemy import Connection

from mep.relay.errors import HttpError
from mep.relay.settings import Settings
from mep.relay.store import Store, tasks
from mep.relay.store.tasks import StoredSubmit

_WITH_KEY_MOST = 20_000


class Attempt:
    """One submit on its way. `stored` is set once its tasks are on disk."""

    def __init__(self, key: str, body_sha256: str) -> None:
        self.key, self.body_sha256 = key, body_sha256
        self.stored: StoredSubmit | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Request(Struct, frozen=True, kw_only=True):
    """What makes two submits the same."""

    identity_id: str
    where: str  # the endpoint, or the route
    body: bytes
    idempotency_key: str = ""

    def names(self) -> tuple[str, str]:
        """Return the key and the body's digest."""
        digest = hashlib.sha256(self.body).hexdigest()
        if self.idempotency_key:
            return f"k:{self.identity_id}:{self.idempotency_key}", digest
        return f"h:{self.identity_id}:{self.where}:{digest}", digest


Make = Callable[[Attempt], Awaitable[bytes]]
Again = Callable[[StoredSubmit], Awaitable[None]]


class Repeats:
    """Remembers attempts: those under way, those nobody heard the answer of, those with a key."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self._running: dict[str, Attempt] = {}
        self._unheard: dict[str, StoredSubmit] = {}
        self._heard: deque[str] = deque()  # to be forgotten on disk, many at once
        self._dropping = False
        self._with_key: dict[str, StoredSubmit] = {}  # the recent ones; all are on disk

    async def load(self) -> list[StoredSubmit]:
        """Take over from an earlier relay; return the submits that it may not have published."""
        since = time.time() - self._settings.repeat_window_s
        found = await self._store.read_much(lambda c: tasks.submits_since(c, since))
        self._unheard = {s.key: s for s in found if s.key.startswith("h:")}
        return [s for s in found if not s.published]

    async def answer(
        self, request: Request, make: Make, again: Again, gone: Callable[[], Awaitable[bool]]
    ) -> tuple[bytes, Attempt]:
        """Return the answer and the attempt it belongs to: `heard` or `unheard` must follow.

        `make` does the work and sets `attempt.stored`; `again` hands to the broker what an earlier attempt stored
        and did not publish. `gone` tells whether the caller has left: one that left while it waited for an attempt
        of the same name is not served, or its old request would be done after the newer one was answered.
        """
        key, digest = request.names()
        while (running := self._running.get(key)) is not None:
            await asyncio.shield(running.done)
            if key not in self._running and await gone():
                raise HttpError(499, "CLIENT_GONE", "The caller left before it was served.")
        stored = self._find_unheard(key) or self._with_key.get(key)
        if stored is None and request.idempotency_key:
            stored = await self._store.read(lambda c: tasks.find_submit(c, key))
        if key in self._running:
            return await self.answer(request, make, again, gone)
        attempt = Attempt(key, digest)
        if stored is not None:
            if stored.body_sha256 != digest:
                raise HttpError(422, "SEMANTICALLY_INVALID", "This Idempotency-Key was used with another request.")
            attempt.stored = stored
        self._running[key] = attempt
        try:
            if stored is None:
                return await make(attempt), attempt
            if not stored.published:
                await again(stored)
                attempt.stored = structs.replace(stored, published=True)
            return stored.answer.encode(), attempt
        except BaseException:
            self.unheard(attempt)
            raise

    def heard(self, attempt: Attempt) -> None:
        """The caller has the answer: the same body again is a new submit."""
        self._unheard.pop(attempt.key, None)
        if attempt.key.startswith("h:"):
            self._heard.append(attempt.key)
            if not self._dropping:
                self._dropping = True
                self._store.write_later(self._drop_heard)
        else:
            self._store.write_later(lambda c: tasks.mark_published(c, attempt.key))
        self._end(attempt)

    def unheard(self, attempt: Attempt) -> None:
        """The caller left, or got an error: what was stored waits for a repeat."""
        if attempt.stored is not None:
            if attempt.key.startswith("h:"):
                self._unheard[attempt.key] = attempt.stored
            if attempt.stored.published:  # soon: should we die, the repeat must not publish again
                self._store.write(lambda c: tasks.mark_published(c, attempt.key))
        self._end(attempt)

    def drop_old(self) -> None:
        """Forget attempts that nobody repeated."""
        since = time.time() - self._settings.repeat_window_s
        self._unheard = {key: s for key, s in self._unheard.items() if s.created > since}
        self._with_key = {key: s for key, s in self._with_key.items() if s.created > since}

    def _drop_heard(self, connection: Connection) -> None:
        """Runs in the writer's thread, while the loop may add more. The flag first: what is added before it falls
        is in the count, what is added after it asks again."""
        self._dropping = False
        count = len(self._heard)
        tasks.drop_submits(connection, [self._heard[i] for i in range(count)])
        for _ in range(count):
            self._heard.popleft()

    def _find_unheard(self, key: str) -> StoredSubmit | None:
        found = self._unheard.get(key)
        if found is not None and found.created < time.time() - self._settings.repeat_window_s:
            del self._unheard[key]
            return None
        return found

    def _end(self, attempt: Attempt) -> None:
        if attempt.stored is not None and attempt.key.startswith("k:"):
            if len(self._with_key) > _WITH_KEY_MOST:
                self._with_key.clear()
            self._with_key[attempt.key] = attempt.stored
        if self._running.get(attempt.key) is attempt:
            del self._running[attempt.key]
        if not attempt.done.done():
            attempt.done.set_result(None)
