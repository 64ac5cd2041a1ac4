"""Writes share commits, keep their order, and one that fails takes no other with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from mep.relay.store import Store
from mep.relay.store.engine import default_url


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(default_url(tmp_path))
    await made.write(create)
    yield made
    made.close()


Job = Callable[[Connection], Any]


def create(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE t (n INTEGER UNIQUE)"))


def insert(n: int) -> Job:
    def job(connection: Connection) -> int:
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n})
        return n

    return job


async def numbers(store: Store) -> list[int]:
    return await store.read(lambda c: list(c.execute(text("SELECT n FROM t ORDER BY rowid")).scalars()))


async def test_what_is_written_can_be_read_at_once(store: Store) -> None:
    assert await store.write(insert(7)) == 7
    assert await numbers(store) == [7]


async def test_concurrent_writes_share_commits_and_keep_their_order(store: Store) -> None:
    commits = 0

    @event.listens_for(store._write_engine, "commit")
    def _count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    await asyncio.gather(*(store.write(insert(n)) for n in range(500)))
    assert await numbers(store) == list(range(500))
    assert commits < 250


async def test_a_write_that_fails_is_told_and_the_others_of_its_batch_stand(store: Store) -> None:
    jobs = [insert(n) for n in (1, 2, 2, 3)]
    outcomes: list[Any] = await asyncio.gather(*(store.write(job) for job in jobs), return_exceptions=True)
    assert [o for o in outcomes if not isinstance(o, BaseException)] == [1, 2, 3]
    assert "UNIQUE" in str(next(o for o in outcomes if isinstance(o, BaseException)))
    assert await numbers(store) == [1, 2, 3]


async def test_what_nobody_waits_for_is_written_before_the_end(tmp_path: Path) -> None:
    store = Store(default_url(tmp_path))
    await store.write(create)
    for n in range(10):
        store.write_later(insert(n))
    store.close()
    store = Store(default_url(tmp_path))
    assert await numbers(store) == list(range(10))
    store.close()


async def test_a_commit_is_synced_to_disk(store: Store) -> None:
    mode = await store.read(lambda c: c.execute(text("PRAGMA synchronous")).scalar())
    journal = await store.read(lambda c: c.execute(text("PRAGMA journal_mode")).scalar())
    assert (mode, journal) == (2, "wal")
