"""The order of a channel's sealed reports, and the database that remembers it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mep.relay.fleet import Newest
from mep.relay.store.endpoints import Endpoint, find, save, stamped
from mep.relay.store.engine import create_tables, default_url, open_writer
from mep.relay.store.tasks import store_results
from mep.wire.limits import COMMAND_MAX_SKEW_S
from mep.wire.seal import Stamp

FIRST, SECOND = b"1" * 16, b"2" * 16


SENT = st.tuples(st.sampled_from((FIRST, SECOND)), st.integers(1, 9), st.integers(0, 2000))


@given(st.lists(SENT, unique_by=lambda one: one[:2]))
def test_no_report_counts_twice_and_none_of_an_older_life(sent: list[tuple[bytes, int, int]]) -> None:
    newest = Newest(0.0)
    counted: list[tuple[bytes, int]] = []
    for now, (sender, number, issued) in enumerate(sent + sent, start=1000):
        if newest.advances(Stamp(sender, number, float(issued)), float(now)):
            counted.append((sender, number))
    assert len(set(counted)) == len(counted)
    lives = [sender for sender, _ in counted]
    assert lives in (sorted(lives), sorted(lives, reverse=True)), "who was followed by another is over"


def test_numbers_decide_within_a_life_whatever_the_clock_says() -> None:
    newest = Newest(0.0)
    assert newest.advances(Stamp(FIRST, 1, 500.0), 500.0)
    assert newest.advances(Stamp(FIRST, 2, 100.0), 500.0), "the clock was set back"
    assert not newest.advances(Stamp(FIRST, 2, 600.0), 600.0)
    assert not newest.advances(Stamp(SECOND, 1, 400.0), 600.0), "of another life, and older"
    assert newest.advances(Stamp(SECOND, 1, 501.0), 600.0)
    assert not newest.advances(Stamp(FIRST, 9, 499.0), 600.0), "the life before is over"


def test_a_clock_in_the_future_that_is_set_right_silences_nobody_for_long() -> None:
    newest = Newest(0.0)
    assert newest.advances(Stamp(FIRST, 1, 1e9), 1000.0)
    assert not newest.advances(Stamp(SECOND, 1, 1000.0 + COMMAND_MAX_SKEW_S), 1000.0 + COMMAND_MAX_SKEW_S)
    assert newest.advances(Stamp(SECOND, 2, 1001.0 + COMMAND_MAX_SKEW_S), 1001.0 + COMMAND_MAX_SKEW_S)


LATER = {
    "endpoints": ["seals", "stamped", "start_key"],
    "ueps": ["stamped"],
    "task_groups": ["seals"],
    "tasks": ["assured"],
}


def test_a_database_of_before_the_seals_is_brought_up_to_date(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    engine = open_writer(url)
    create_tables(engine)
    old = Endpoint(id="e", owner_id="o", name="site")
    with engine.begin() as connection:
        save(connection, old)
    engine.dispose()
    with sqlite3.connect(tmp_path / "relay.db") as database:
        for table, columns in LATER.items():
            for column in columns:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.close()
    engine = open_writer(url)
    for _ in range(2):
        create_tables(engine)
    with engine.begin() as connection:
        assert find(connection, "e") == old
        assert store_results(connection, []) == []
        stamped(connection, "e", 5.0)
        save(connection, old)
        found = find(connection, "e")
    engine.dispose()
    assert found is not None
    assert found.stamped == 5.0, "registering again forgets no order"
