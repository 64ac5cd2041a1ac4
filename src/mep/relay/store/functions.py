"""Registered functions: functions of a connection."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection, bindparam, delete, insert, select

from mep.relay.store.schema import functions


class Function(Struct, frozen=True, kw_only=True):
    """`code` is one packed buffer, put before the arguments as it is."""

    id: str
    owner_id: str
    name: str
    code: str
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    public: bool = False
    created: float = 0.0


_by_id = select(functions).where(functions.c.id == bindparam("id"))


def find(connection: Connection, function_id: str) -> Function | None:
    row = connection.execute(_by_id, {"id": function_id}).first()
    if row is None:
        return None
    values = dict(row._mapping)
    values["metadata"] = json.loads(values["metadata"])
    values["public"] = bool(values["public"])
    return Function(**values)


def add(connection: Connection, function: Function) -> None:
    values: dict[str, Any] = {name: getattr(function, name) for name in function.__struct_fields__}
    values["metadata"] = json.dumps(values["metadata"])
    connection.execute(insert(functions), values)


def remove(connection: Connection, function_id: str) -> None:
    connection.execute(delete(functions).where(functions.c.id == function_id))
