"""Tasks, groups, results, submits: functions of a connection. The hot ones run a fixed number of statements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mep.relay.store.schema import outbox, results, submits, task_groups, tasks, ueps
from mep.wire.rest import SubmitAnswer


class Group(Struct, frozen=True):
    """`seals`: all who have used it can open sealed results."""

    id: str
    identity_id: str
    has_queue: bool
    created: float
    seals: bool = False


class StoredSubmit(Struct, frozen=True, kw_only=True):
    """An answer that was given, or was ready to be."""

    key: str
    body_sha256: str
    answer: str
    created: float
    published: bool


class TaskState(NamedTuple):
    """One task as its owner may see it. `body`: the result's envelope, once there is one."""

    id: str
    group_id: str
    identity_id: str
    uep_state: str
    created: float
    done: float | None
    body: bytes | None
    uep_id: str = ""
    assured: bool = False  # its result is fetched, not pushed


class Arrived(Struct, frozen=True, kw_only=True):
    """A result to be stored. `sender` is the id that the broker vouches for; "" = the relay itself."""

    task_id: str
    sender: str
    body: bytes
    redelivered: bool = False


class Stored(NamedTuple):
    """What became of an `Arrived`: `verdict` new | again (forward once more) | duplicate | unknown | forged."""

    verdict: str
    uep_id: str = ""
    group_id: str = ""
    identity_id: str = ""
    has_queue: bool = False
    body: bytes | None = None  # "again": the one that counts
    seals: bool = False  # the group takes it sealed
    assured: bool = False  # its result is fetched, not pushed


# made once: to make one anew for each task costs as long as the database takes for it
_new_tasks, _new_results, _new_submit = insert(tasks), insert(results), insert(submits)


def insert_submit(
    connection: Connection,
    *,
    group: Group,
    rows: Sequence[dict[str, Any]],
    submit: StoredSubmit,
    group_changed: bool,
) -> None:
    """Store a submit: tasks and answer, and the group if it is new or has got a queue."""
    if group_changed:
        add_group(connection, group)
    connection.execute(_new_tasks, list(rows))
    add_submit(connection, submit)


def add_group(connection: Connection, group: Group) -> None:
    """Insert a group; two submits may both bring a new one."""
    try:
        with connection.begin_nested():
            connection.execute(
                insert(task_groups),
                {
                    "id": group.id,
                    "identity_id": group.identity_id,
                    "has_queue": int(group.has_queue),
                    "created": group.created,
                    "seals": int(group.seals),
                },
            )
    except IntegrityError:
        changed = {**({"has_queue": 1} if group.has_queue else {}), **({} if group.seals else {"seals": 0})}
        if changed:
            connection.execute(update(task_groups).where(task_groups.c.id == group.id).values(changed))


_group_by_id = select(task_groups).where(task_groups.c.id == bindparam("id"))


def find_group(connection: Connection, group_id: str) -> Group | None:
    row = connection.execute(_group_by_id, {"id": group_id}).first()
    if row is None:
        return None
    return Group(row.id, row.identity_id, bool(row.has_queue), row.created, bool(row.seals))


def group_tasks(connection: Connection, group_id: str) -> list[tuple[str, float]]:
    """Return (id, created) of the group's tasks."""
    rows = connection.execute(select(tasks.c.id, tasks.c.created).where(tasks.c.group_id == group_id))
    return [(row.id, row.created) for row in rows]


_states = (
    select(
        tasks.c.id,
        tasks.c.group_id,
        task_groups.c.identity_id,
        ueps.c.state,
        tasks.c.created,
        tasks.c.done,
        results.c.body,
        tasks.c.uep_id,
        tasks.c.assured,
    )
    .join(task_groups, task_groups.c.id == tasks.c.group_id)
    .outerjoin(ueps, ueps.c.id == tasks.c.uep_id)
    .outerjoin(results, results.c.task_id == tasks.c.id)
    .where(tasks.c.id.in_(bindparam("ids", expanding=True)))
)


def states(connection: Connection, task_ids: Sequence[str]) -> dict[str, TaskState]:
    """Return what is known of these tasks, by id."""
    found: dict[str, TaskState] = {}
    for start in range(0, len(task_ids), 500):
        for row in connection.execute(_states, {"ids": task_ids[start : start + 500]}):
            found[row[0]] = TaskState(*row[:-1], bool(row[-1]))
    return found


_owners = (
    select(
        tasks.c.id,
        tasks.c.uep_id,
        tasks.c.done,
        tasks.c.group_id,
        task_groups.c.identity_id,
        task_groups.c.has_queue,
        task_groups.c.seals,
        tasks.c.assured,
    )
    .join(task_groups, task_groups.c.id == tasks.c.group_id)
    .where(tasks.c.id.in_(bindparam("ids", expanding=True)))
)
_finish = update(tasks).where(tasks.c.id == bindparam("task")).values(done=bindparam("at"))


def store_results(connection: Connection, arrived: Sequence[Arrived]) -> list[Stored]:
    """Store each first result; say of each what it was. The first one wins, within the batch too."""
    owners = {row[0]: row for row in connection.execute(_owners, {"ids": [a.task_id for a in arrived]})}
    now = time.time()
    verdicts: list[Stored] = []
    fresh: dict[str, bytes] = {}
    for one in arrived:
        row = owners.get(one.task_id)
        if row is None:
            verdicts.append(Stored("unknown"))
            continue
        verdict, body = "new", None
        if one.sender and one.sender != row.uep_id:
            verdict = "forged"
        elif row.done is not None or one.task_id in fresh:
            verdict = "again" if one.redelivered else "duplicate"
            if verdict == "again":
                body = fresh.get(one.task_id) or _body_of(connection, one.task_id)
        else:
            fresh[one.task_id] = one.body
        where = (row.uep_id, row.group_id, row.identity_id, bool(row.has_queue))
        verdicts.append(Stored(verdict, *where, body, bool(row.seals), bool(row.assured)))
    if fresh:
        connection.execute(_new_results, [{"task_id": i, "body": body} for i, body in fresh.items()])
        connection.execute(_finish, [{"task": i, "at": now} for i in fresh])
    return verdicts


def _body_of(connection: Connection, task_id: str) -> bytes | None:
    found: bytes | None = connection.execute(
        select(results.c.body).where(results.c.task_id == task_id)
    ).scalar_one_or_none()
    return found


def open_task_ids(connection: Connection, uep_id: str, *, before: float | None = None) -> list[str]:
    """Return the unfinished tasks of a user endpoint (created before that time)."""
    query = select(tasks.c.id).where(tasks.c.uep_id == uep_id, tasks.c.done.is_(None))
    if before is not None:
        query = query.where(tasks.c.created < before)
    return list(connection.execute(query).scalars())


def unpublished_task_ids(connection: Connection, since: float) -> set[str]:
    """Return the tasks of submits since that time which the broker may not have: nobody was told of them yet, and
    they are published when their caller repeats the submit."""
    query = select(submits.c.answer).where(submits.c.published == 0, submits.c.created > since)
    answers = (msgspec.json.decode(text, type=SubmitAnswer) for text in connection.execute(query).scalars())
    return {task_id for answer in answers for ids in answer.tasks.values() for task_id in ids}


def oldest_open(connection: Connection) -> dict[str, float]:
    """Return, for each user endpoint that owes tasks, when the oldest of them came."""
    rows = connection.execute(
        select(tasks.c.uep_id, func.min(tasks.c.created)).where(tasks.c.done.is_(None)).group_by(tasks.c.uep_id)
    )
    return {row[0]: row[1] for row in rows}


# ---- submits ----


def add_submit(connection: Connection, submit: StoredSubmit) -> None:
    """Remember an answer."""
    values = {name: getattr(submit, name) for name in submit.__struct_fields__}
    values["published"] = int(submit.published)
    connection.execute(_new_submit, values)


def _stored_submit(row: Row[Any]) -> StoredSubmit:
    values = dict(row._mapping)
    values["published"] = bool(values["published"])
    return StoredSubmit(**values)


def find_submit(connection: Connection, key: str) -> StoredSubmit | None:
    row = connection.execute(select(submits).where(submits.c.key == key)).first()
    return _stored_submit(row) if row is not None else None


def submits_since(connection: Connection, since: float) -> list[StoredSubmit]:
    """Return the answers kept since that time."""
    return [_stored_submit(row) for row in connection.execute(select(submits).where(submits.c.created > since))]


def mark_published(connection: Connection, key: str) -> None:
    connection.execute(update(submits).where(submits.c.key == key).values(published=1))


_drop_submit = delete(submits).where(submits.c.key == bindparam("k"))


def drop_submits(connection: Connection, keys: Sequence[str]) -> None:
    """Forget answers that were heard."""
    if keys:
        connection.execute(_drop_submit, [{"k": key} for key in keys])


# ---- what could not be handed to the broker yet ----


class Parked(Struct, frozen=True, kw_only=True):
    """A message in the outbox. `kind`: task (target: user endpoint) | result (target: group queue)."""

    kind: str
    target: str
    headers: str
    body: bytes
    id: int = 0


def park(connection: Connection, messages: Sequence[Parked]) -> list[int]:
    """Put messages into the outbox; return their numbers."""
    rows = [{"kind": m.kind, "target": m.target, "headers": m.headers, "body": m.body} for m in messages]
    return list(connection.execute(insert(outbox).returning(outbox.c.id), rows).scalars()) if rows else []


def parked(connection: Connection) -> list[Parked]:
    """Return the outbox in order."""
    return [Parked(**row._mapping) for row in connection.execute(select(outbox).order_by(outbox.c.id))]


def unpark(connection: Connection, numbers: Sequence[int]) -> None:
    connection.execute(delete(outbox).where(outbox.c.id.in_(list(numbers))))


# ---- housekeeping ----


def drop_old(connection: Connection, *, done_before: float, submits_before: float) -> int:
    """Forget finished tasks and answers of long ago; return how many tasks."""
    old = select(tasks.c.id).where(tasks.c.done < done_before).limit(5000)
    ids = list(connection.execute(old).scalars())
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        connection.execute(delete(results).where(results.c.task_id.in_(some)))
        connection.execute(delete(tasks).where(tasks.c.id.in_(some)))
    connection.execute(delete(submits).where(submits.c.created < submits_before))
    return len(ids)
