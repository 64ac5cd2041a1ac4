"""User endpoints as the relay knows them: functions of a connection."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from mep.relay.store.schema import tasks, ueps


class UepRecord(Struct, frozen=True, kw_only=True):
    """`options` and `runtime` are JSON texts, sent as they came. `state`: stopped | starting | up | stopping."""

    id: str
    endpoint_id: str
    identity_id: str
    options: str = "{}"
    runtime: str = "{}"
    created: float = 0.0
    generation: int = 0
    state: str = "stopped"
    last_seen: float = 0.0
    period_s: float = 0.0
    stamped: float = 0.0


def _record(row: Row[Any]) -> UepRecord:
    return UepRecord(**row._mapping)


_by_id = select(ueps).where(ueps.c.id == bindparam("id"))


def find(connection: Connection, uep_id: str) -> UepRecord | None:
    row = connection.execute(_by_id, {"id": uep_id}).first()
    return _record(row) if row is not None else None


def add(connection: Connection, record: UepRecord) -> UepRecord:
    """Insert it unless it is there; return the one that is there now."""
    found = find(connection, record.id)
    if found is not None:
        return found
    connection.execute(insert(ueps), {name: getattr(record, name) for name in record.__struct_fields__})
    return record


def of_endpoint(connection: Connection, endpoint_id: str) -> list[UepRecord]:
    return [_record(r) for r in connection.execute(select(ueps).where(ueps.c.endpoint_id == endpoint_id))]


def not_stopped_or_owing(connection: Connection) -> list[UepRecord]:
    """Return those that were up when last heard of, or that have unfinished tasks."""
    owing = select(tasks.c.uep_id).where(tasks.c.done.is_(None)).distinct()
    return [
        _record(r)
        for r in connection.execute(select(ueps).where((ueps.c.state != "stopped") | ueps.c.id.in_(owing)))
    ]


def open_counts(connection: Connection) -> dict[str, int]:
    """Return how many tasks each user endpoint still owes."""
    rows = connection.execute(
        select(tasks.c.uep_id, func.count()).where(tasks.c.done.is_(None)).group_by(tasks.c.uep_id)
    )
    return {row[0]: row[1] for row in rows}


def set_state(connection: Connection, uep_id: str, state: str, *, period_s: float | None = None) -> None:
    """Remember a change of state; with `period_s` it was up until now, or is from now on."""
    values: dict[str, Any] = {"state": state}
    if period_s is not None:
        values |= {"period_s": period_s, "last_seen": time.time()}
    connection.execute(update(ueps).where(ueps.c.id == uep_id).values(values))


def stamped(connection: Connection, uep_id: str, at: float) -> None:
    """Remember when its newest sealed report was issued."""
    connection.execute(update(ueps).where(ueps.c.id == uep_id).values(stamped=at))


def next_generation(connection: Connection, uep_id: str) -> int:
    """Make its broker password of before worthless; return the new generation."""
    connection.execute(update(ueps).where(ueps.c.id == uep_id).values(generation=ueps.c.generation + 1))
    return int(connection.execute(select(ueps.c.generation).where(ueps.c.id == uep_id)).scalar_one())


def remove(connection: Connection, uep_id: str) -> None:
    connection.execute(delete(ueps).where(ueps.c.id == uep_id))
