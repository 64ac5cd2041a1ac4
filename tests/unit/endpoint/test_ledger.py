"""When a task counts as ours, and what a next user endpoint finds of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.endpoint.journal import Accepted, Journal, _frame
from mep.endpoint.ledger import Ledger, Stage
from mep.engines.base import Call, Outcome
from mep.wire.seal import Stamp


def call(task_id: str) -> Call:
    return Call(task_id, "f", "buffer", {"n": 1}, ("a.B",))


class Book:
    """A ledger on a file, and what it said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durable = 0
        self.full: list[str] = []
        self.open()

    def open(self) -> None:
        self.journal = Journal(str(self.path), wait_for_lock_s=0)
        self.ledger = Ledger(self.journal, on_durable=self._durable, on_full=self.full.append)
        self.recovered = self.ledger.recover()

    async def again(self) -> None:
        """As after a kill -9 in the next turn of the loop: nothing is said, nothing is written any more."""
        await asyncio.sleep(0)
        self.journal.close()
        self.open()

    def _durable(self) -> None:
        self.durable += 1


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "journal")


async def test_a_task_is_settled_when_its_record_is_on_disk(book: Book) -> None:
    book.ledger.accept([call("a")])
    assert not book.ledger.settled()
    await asyncio.sleep(0.05)
    assert book.ledger.settled()
    assert book.durable == 1


async def test_one_sync_settles_many(book: Book) -> None:
    for number in range(100):
        book.ledger.accept([call(str(number))])
    await asyncio.sleep(0.05)
    assert book.durable == 1


async def test_a_confirmed_result_settles_without_a_sync(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book.journal, "sync", lambda: pytest.fail("no disk is needed for it"))
    book.ledger.accept([call("a")])
    book.ledger.started("a")
    book.ledger.finished(Outcome("a", b"r"))
    book.ledger.forget("a")
    assert book.ledger.settled()
    assert book.durable == 1
    await asyncio.sleep(0.02)


async def test_a_next_life_finds_each_task_as_it_was(book: Book) -> None:
    for task_id in "abcd":
        book.ledger.accept([call(task_id)])
    book.ledger.started("b")
    book.ledger.started("c")
    book.ledger.started("d")
    book.ledger.finished(Outcome("c", b"result", "X"))
    book.ledger.finished(Outcome("d", b"result"))
    book.ledger.forget("d")
    await book.again()
    assert book.recovered.waiting == [call("a")]
    assert book.recovered.running == [(call("b"), 1)]
    assert book.recovered.results == [Outcome("c", b"result", "X")]
    assert book.ledger.stage("d") is Stage.FORGOTTEN
    assert book.ledger.stage("a") is Stage.ACCEPTED
    assert book.ledger.stage("z") is None
    assert book.ledger.outstanding == 3


async def test_a_start_is_written_before_the_worker_has_the_task(book: Book) -> None:
    book.ledger.accept([call("a")])
    book.ledger.started("a")
    book.journal.close()
    book.open()
    assert book.recovered.running == [(call("a"), 1)]


async def test_starts_are_counted_over_lives(book: Book) -> None:
    book.ledger.accept([call("a")])
    book.ledger.started("a")
    await book.again()
    book.ledger.started("a")
    await book.again()
    assert book.recovered.running == [(call("a"), 2)]


async def test_a_full_disk_refuses_the_task_and_is_noticed_when_it_has_room_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mep.endpoint.ledger._RETRY_FULL_S", 0.02)
    book.ledger.accept([call("a")])
    write = book.journal.write

    def full(*_: object) -> None:
        raise HostError(Code.JOURNAL_FULL, "full")

    monkeypatch.setattr(book.journal, "write", full)
    with pytest.raises(HostError):
        book.ledger.accept([call("b")])
    assert book.full == ["full"]
    assert book.ledger.stage("b") is None
    book.ledger.started("a")  # the record waits for room
    await asyncio.sleep(0.05)
    assert book.full == ["full"]
    monkeypatch.setattr(book.journal, "write", write)
    await asyncio.sleep(0.05)
    assert book.full == ["full", ""]
    await book.again()
    assert book.recovered.running == [(call("a"), 1)]


async def test_the_backlog_is_what_calls_and_results_take(book: Book) -> None:
    book.ledger.accept([call("a")])
    assert book.ledger.backlog_chars == len("buffer")
    book.ledger.finished(Outcome("a", b"0123456789"))
    assert book.ledger.backlog_chars == 10
    book.ledger.forget("a")
    assert book.ledger.backlog_chars == 0


# ---- sealed messages ----


def stamp(number: int) -> Stamp:
    return Stamp(b"s" * 16, number, 0.0)


@pytest.mark.parametrize("compact", [False, True])
async def test_a_sealed_message_is_known_to_every_later_life_also_after_compactions(
    book: Book, monkeypatch: pytest.MonkeyPatch, compact: bool
) -> None:
    if compact:
        monkeypatch.setattr("mep.endpoint.journal._COMPACT_ABOVE_BYTES", 0)
    monkeypatch.setattr("mep.endpoint.ledger._REMEMBERED_IDS", 0)
    for number in range(1, 50):
        book.ledger.accept([call(f"t{number}")], {f"t{number}": stamp(number)})
        book.ledger.finished(Outcome(f"t{number}", b"r"))
        book.ledger.forget(f"t{number}")
    book.ledger.saw(stamp(60))
    for _ in range(2):
        await asyncio.sleep(0.01)
        book.journal.sync()
        await book.again()
        assert book.ledger.stage("t1") is None, "the ids are forgotten"
        assert all(book.ledger.replayed(stamp(number)) for number in (1, 25, 49, 60))
        assert not any(book.ledger.replayed(stamp(number)) for number in (50, 59, 61))
    assert book.path.stat().st_size < 500 or not compact


async def test_a_sealed_message_that_the_journal_did_not_take_is_taken_when_it_comes_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = book.journal.write

    def full(*_: object) -> None:
        raise HostError(Code.JOURNAL_FULL, "full")

    monkeypatch.setattr(book.journal, "write", full)
    with pytest.raises(HostError):
        book.ledger.accept([call("a")], {"a": stamp(1)})
    monkeypatch.setattr(book.journal, "write", write)
    assert not book.ledger.replayed(stamp(1))
    book.ledger.accept([call("a")], {"a": stamp(1)})
    assert book.ledger.replayed(stamp(1))


def test_a_journal_of_before_the_seals_is_read(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"), wait_for_lock_s=0)
    list(journal.recover())
    record = msgspec.msgpack.encode([1, "a", "f", "buffer", {}, []])
    journal._put(_frame(record))
    journal.close()
    (found,) = Journal(str(tmp_path / "journal"), wait_for_lock_s=0).recover()
    assert found == Accepted("a", "f", "buffer", {}, [])
