"""Endpoints, functions and groups by id, with short memories: what every submit asks."""

from __future__ import annotations

import time
import uuid
from typing import TypeVar

from mep.base.ids import is_uuid
from mep.relay.errors import HttpError, endpoint_forbidden, endpoint_not_found
from mep.relay.store import Store, endpoints, functions, tasks
from mep.relay.store.accounts import Identity
from mep.relay.store.endpoints import Endpoint
from mep.relay.store.functions import Function
from mep.relay.store.tasks import Group

T = TypeVar("T")

_ENDPOINT_S = 1.0  # another relay process on the same database may have changed it
_FUNCTIONS_MOST_BYTES = 64 * 1024 * 1024


class Directory:
    """Looks things up."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._endpoints: dict[str, tuple[float, Endpoint]] = {}
        self._functions: dict[str, Function] = {}
        self._function_bytes = 0
        self._groups: dict[str, Group] = {}

    async def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return the endpoint; HttpError 404, or 400 if that is no id."""
        cached = self._endpoints.get(endpoint_id)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        canonical = checked_id(endpoint_id)
        found = await self._store.read(lambda c: endpoints.find(c, canonical))
        if found is None:
            raise endpoint_not_found(endpoint_id)
        self._endpoints[canonical] = (time.monotonic() + _ENDPOINT_S, found)
        return found

    async def usable(self, endpoint_id: str, identity: Identity) -> Endpoint:
        """Return the endpoint if that person may use it."""
        endpoint = await self.endpoint(endpoint_id)
        if not endpoint.may_use(identity.id, identity.username):
            raise endpoint_forbidden(endpoint_id)
        return endpoint

    async def managed(self, endpoint_id: str, identity: Identity) -> Endpoint:
        """Return the endpoint if that person may change it."""
        endpoint = await self.endpoint(endpoint_id)
        if not endpoint.may_manage(identity.id, identity.username):
            raise endpoint_forbidden(endpoint_id)
        return endpoint

    async def function(self, function_id: str) -> Function | None:
        cached = self._functions.get(function_id)
        if cached is not None:
            return cached
        canonical = checked_id(function_id)
        found = await self._store.read(lambda c: functions.find(c, canonical))
        if found is not None:
            if self._function_bytes > _FUNCTIONS_MOST_BYTES:
                self._functions.clear()
                self._function_bytes = 0
            self._functions[canonical] = found
            self._function_bytes += len(found.code)
        return found

    async def group(self, group_id: str) -> Group | None:
        cached = self._groups.get(group_id)
        if cached is not None:
            return cached
        found = await self._store.read(lambda c: tasks.find_group(c, group_id))
        if found is not None and found.has_queue:
            if len(self._groups) > 10_000:
                self._groups.clear()
            self._groups[group_id] = found
        return found

    def forget(self, some_id: str) -> None:
        """It was changed or deleted."""
        self._endpoints.pop(some_id, None)
        self._groups.pop(some_id, None)
        self._functions.pop(some_id, None)


def checked_id(text: str) -> str:
    """Return the UUID in `text` in its canonical spelling; HttpError 400 if there is none."""
    if is_uuid(text):
        return text
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise HttpError(400, "INVALID_UUID", f"{text[:80]!r} is not a UUID.") from None
