"""Opening the database: SQLite with the settings that durability and speed need, or what the URL names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from mep.base.codes import Code
from mep.base.errors import HostError, InputError
from mep.relay.store.schema import ADDED, metadata

_BUSY_TIMEOUT_MS = 15_000  # how long a writer waits for another process's transaction


def default_url(data_dir: Path) -> str:
    """Return the URL of the database that lives in `data_dir`."""
    return f"sqlite:///{data_dir / 'relay.db'}"


def is_sqlite(url: str) -> bool:
    """InputError(CONFIG_INVALID) for what is no database URL."""
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except ArgumentError:
        text = "--database-url: wanted a SQLAlchemy URL such as postgresql+psycopg://USER:PASSWORD@HOST/NAME."
        raise InputError(Code.CONFIG_INVALID, text, step="") from None


def open_writer(url: str) -> Engine:
    """Return an engine whose transactions take the write lock when they begin."""
    engine = _open(url)
    if is_sqlite(url):

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def open_reader(url: str) -> Engine:
    """Return an engine for single statements, each seeing the last commit."""
    return _open(url).execution_options(isolation_level="AUTOCOMMIT")


def create_tables(engine: Engine) -> None:
    """Make the tables and columns that are missing; safe when several processes do it at once.

    HostError(CONFIG_UNREADABLE) if there is no database, or something else in its place.
    """
    try:
        with engine.begin() as connection:
            metadata.create_all(connection)
            _add_columns(connection)
    except DBAPIError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise HostError(
            Code.CONFIG_UNREADABLE, f"Cannot use the database {where}: {error.orig}.", step=""
        ) from None


def _add_columns(connection: Connection) -> None:
    """Bring a database of before up to date. SQLite's write lock is held; others know IF NOT EXISTS."""
    unless = "" if connection.dialect.name == "sqlite" else "IF NOT EXISTS "
    for table, column, kind in ADDED:
        if column not in {known["name"] for known in inspect(connection).get_columns(table)}:
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {unless}{column} {kind}"))


def _open(url: str) -> Engine:
    if not is_sqlite(url):
        return create_engine(url, pool_pre_ping=True)
    path = make_url(url).database
    if path:
        _make_private(Path(path))
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # sqlite3 must not begin transactions by its own rules
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",  # an answered submit survives a power cut
            "cache_size=-32000",
            "temp_store=MEMORY",
            "wal_autocheckpoint=4000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _make_private(path: Path) -> None:
    """Create the file for its owner only; SQLite's side files take over its mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HostError(
            Code.CONFIG_UNREADABLE, f"Cannot use {path.parent} for the relay's data: {error.strerror}.", step=""
        ) from None
