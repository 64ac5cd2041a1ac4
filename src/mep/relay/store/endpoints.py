"""Registered endpoints: functions of a connection."""

from __future__ import annotations

import json
import time
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from mep.relay.store.schema import endpoints


class Endpoint(Struct, frozen=True, kw_only=True):
    """One endpoint as registered. `uses_commands`: it starts user endpoints; else it takes tasks itself.

    `seals`: which keys it and its user endpoints seal with, 0 = none (see `relay.seals`). `start_key`: the newest
    key for start commands that it was told.
    """

    id: str
    owner_id: str
    name: str
    display_name: str | None = None
    multi_user: bool = False
    uses_commands: bool = True
    public: bool = False
    high_assurance: bool = False
    version: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    schema: dict[str, Any] = field(default_factory=dict)
    allowed_functions: tuple[str, ...] | None = None
    admins: tuple[str, ...] = ()
    authentication_policy: str | None = None
    subscription: str | None = None
    created: float = 0.0
    registered: float = 0.0
    generation: int = 0
    locked_until: float = 0.0
    last_seen: float = 0.0
    period_s: float = 0.0
    seals: int = 0
    stamped: float = 0.0
    start_key: str = ""

    def may_manage(self, identity_id: str, username: str) -> bool:
        """Owner and administrators (by id or by name) may change it."""
        return identity_id == self.owner_id or identity_id in self.admins or username in self.admins

    def may_use(self, identity_id: str, username: str) -> bool:
        """A multi-user endpoint decides itself whom it maps; another serves its owner. `public` is about lists."""
        return self.multi_user or self.public or self.may_manage(identity_id, username)


_JSON = ("metadata", "schema", "admins")


def _endpoint(row: Row[Any]) -> Endpoint:
    values = dict(row._mapping)
    for name in ("multi_user", "uses_commands", "public", "high_assurance"):
        values[name] = bool(values[name])
    values["metadata"] = json.loads(values["metadata"])
    values["schema"] = json.loads(values["schema"])
    values["admins"] = tuple(json.loads(values["admins"]))
    allowed = values["allowed_functions"]
    values["allowed_functions"] = None if allowed is None else tuple(json.loads(allowed))
    return Endpoint(**values)


_by_id = select(endpoints).where(endpoints.c.id == bindparam("id"))


def find(connection: Connection, endpoint_id: str) -> Endpoint | None:
    row = connection.execute(_by_id, {"id": endpoint_id}).first()
    return _endpoint(row) if row is not None else None


def listed(connection: Connection) -> list[Endpoint]:
    """Return all endpoints, oldest first."""
    return [_endpoint(row) for row in connection.execute(select(endpoints).order_by(endpoints.c.created))]


def save(connection: Connection, endpoint: Endpoint) -> None:
    """Insert or replace what was registered. What heartbeats and locks wrote meanwhile stays."""
    values: dict[str, Any] = {name: getattr(endpoint, name) for name in endpoint.__struct_fields__}
    for name in _JSON:
        values[name] = json.dumps(values[name])
    allowed = values["allowed_functions"]
    values["allowed_functions"] = None if allowed is None else json.dumps(allowed)
    kept = ("id", "created", "generation", "locked_until", "last_seen", "period_s", "stamped")
    changed = {name: value for name, value in values.items() if name not in kept}
    if connection.execute(update(endpoints).where(endpoints.c.id == endpoint.id).values(changed)).rowcount == 0:
        connection.execute(insert(endpoints), values)


def lock(connection: Connection, endpoint_id: str, until: float) -> None:
    """Lock it, and make its broker password of before worthless."""
    connection.execute(
        update(endpoints)
        .where(endpoints.c.id == endpoint_id)
        .values(locked_until=until, generation=endpoints.c.generation + 1)
    )


def seen(connection: Connection, endpoint_id: str, *, period_s: float, at: float | None = None) -> None:
    """Remember a heartbeat; period 0 = it said goodbye."""
    connection.execute(
        update(endpoints)
        .where(endpoints.c.id == endpoint_id)
        .values(last_seen=at if at is not None else time.time(), period_s=period_s)
    )


def stamped(connection: Connection, endpoint_id: str, at: float) -> None:
    """Remember when its newest sealed notice was issued."""
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(stamped=at))


def set_allowed(connection: Connection, endpoint_id: str, allowed: list[str] | None) -> None:
    text = None if allowed is None else json.dumps(allowed)
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(allowed_functions=text))


def remove(connection: Connection, endpoint_id: str) -> None:
    connection.execute(delete(endpoints).where(endpoints.c.id == endpoint_id))
