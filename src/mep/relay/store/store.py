"""The database as the relay's event loop uses it: awaited writes, inline or pooled reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, text

from mep.relay.store.engine import create_tables, is_sqlite, open_reader, open_writer
from mep.relay.store.writer import Writer

T = TypeVar("T")


class Store:
    """All reads and writes. A `job` is a function of a SQLAlchemy connection (see the modules beside).

    Reads by key from SQLite take some 50 µs and run in place; a thread hop would cost more. Elsewhere, and for
    anything that may be large, they run in a small pool.
    """

    def __init__(self, url: str) -> None:
        self._sqlite = is_sqlite(url)
        self._write_engine = open_writer(url)
        self._read_engine = open_reader(url)
        create_tables(self._write_engine)
        self._writer = Writer(self._write_engine, asyncio.get_running_loop())
        self._inline = self._read_engine.connect() if self._sqlite else None
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="relay reader")

    async def read(self, job: Callable[[Connection], T]) -> T:
        """Return what `job` reads; for a few rows by key."""
        if self._inline is not None:
            return job(self._inline)
        return await self.read_much(job)

    async def read_much(self, job: Callable[[Connection], T]) -> T:
        """Return what `job` reads, without holding up the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._pooled, job)

    def write(self, job: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Return a future of what `job` returned, done once it is on disk."""
        return self._writer.write(job)

    def write_later(self, job: Callable[[Connection], object]) -> None:
        """Write without waiting; order among writes is kept."""
        self._writer.write_later(job)

    async def check(self) -> None:
        """Raise if the database cannot be read."""
        await self.read(lambda c: c.execute(text("SELECT 1")).scalar())

    def close(self) -> None:
        self._writer.close()
        self._pool.shutdown(wait=True)
        if self._inline is not None:
            self._inline.close()
        self._read_engine.dispose()
        self._write_engine.dispose()

    def _pooled(self, job: Callable[[Connection], T]) -> T:
        with self._read_engine.connect() as connection:
            return job(connection)
