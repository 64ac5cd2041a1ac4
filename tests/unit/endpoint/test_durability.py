"""What a user endpoint has acknowledged is on disk: a power cut at any moment takes nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.endpoint import journal as journals
from mep.endpoint.home import make_home
from mep.endpoint.journal import Accepted, Finished, Forgotten, Journal, Started
from mep.endpoint.ledger import Ledger, Recovered
from mep.engines.base import Call, Outcome
from mep.wire.seal import Stamp
from support.racedisk import Disk, PowerCut

MakeDisk = Callable[[], Disk]


@pytest.fixture
def make_disk(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> MakeDisk:
    """Make disks; the journal's module writes to the last one."""

    def make() -> Disk:
        disk = Disk(tmp_path_factory.mktemp("disk"))
        monkeypatch.setattr(journals, "os", disk)
        return disk

    return make


def call(task_id: str) -> Call:
    return Call(task_id, "f", "buffer", {}, ())


def accepted(task_id: str) -> Accepted:
    return Accepted(task_id, "f", "buffer", {}, [])


class Life:
    """A user endpoint's book. `may_acknowledge`: what was done to the disk when it said so."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.may_acknowledge: list[list[str]] = []
        self.said = asyncio.Event()
        self.journal = Journal(str(disk.folder / "journal"), wait_for_lock_s=0)
        self.ledger = Ledger(self.journal, on_durable=self._on_durable, on_full=pytest.fail)
        self.left: Recovered = self.ledger.recover()

    def _on_durable(self) -> None:
        self.may_acknowledge.append(list(self.disk.calls))
        self.said.set()

    async def on_disk(self) -> None:
        async with asyncio.timeout(10.0):
            while self.journal.dirty:
                await asyncio.sleep(0.002)

    def kill(self) -> None:
        """As kill -9: what was written stays with the kernel, nothing else is done."""
        if (timer := self.ledger._timer) is not None:
            timer.cancel()
        self.journal.close()


@pytest.mark.parametrize("new_names", [False, True])
async def test_what_may_be_acknowledged_survives_a_power_cut(make_disk: MakeDisk, new_names: bool) -> None:
    disk = make_disk()
    life = Life(disk)
    for task_id in ("a", "b"):
        life.said.clear()
        life.ledger.accept([call(task_id)], {task_id: Stamp(b"s" * 16, ord(task_id), 0.0)})
        assert not life.ledger.settled()
        await asyncio.wait_for(life.said.wait(), 10.0)
    life.kill()
    disk.cut(new_names=new_names)
    after = Life(disk)
    assert after.left.waiting == [call("a"), call("b")]
    assert all(after.ledger.replayed(Stamp(b"s" * 16, ord(task_id), 0.0)) for task_id in "ab")
    after.kill()


async def test_nothing_is_acknowledged_between_the_write_and_the_sync(make_disk: MakeDisk) -> None:
    disk = make_disk()
    life = Life(disk)
    life.ledger.accept([call("a")])
    await asyncio.wait_for(life.said.wait(), 10.0)
    begun = ["create journal.lock", "create journal", "truncate journal", "write journal"]
    assert life.may_acknowledge == [[*begun, "write journal", "sync journal", "sync folder"]]
    life.kill()


def test_the_names_of_all_folders_that_were_made_for_a_journal_are_on_disk(make_disk: MakeDisk) -> None:
    disk = make_disk()
    person = str(disk.folder)
    home = make_home(person, "", "some-id")
    journal = Journal(home.file("journal"), wait_for_lock_s=0)
    list(journal.recover())
    journal.sync()
    inner = [home.directory, *(f"{person}/{name}" for name in (".local/state/mep", ".local/state", ".local"))]
    assert disk.folders == [*inner, person]
    journal.sync()
    assert len(disk.folders) == 5, "once"
    journal.close()


@pytest.mark.parametrize("new_names", [False, True])
async def test_what_a_kill_left_in_the_kernel_is_on_disk_before_it_is_acknowledged(
    make_disk: MakeDisk, new_names: bool
) -> None:
    disk = make_disk()
    first = Life(disk)
    first.ledger.accept([call("a")])
    first.kill()
    second = Life(disk)
    assert second.left.waiting == [call("a")]
    assert not second.ledger.settled(), "the broker delivers it again, and it is acknowledged"
    await asyncio.wait_for(second.said.wait(), 10.0)
    assert second.ledger.settled()
    second.kill()
    disk.cut(new_names=new_names)
    third = Life(disk)
    assert third.left.waiting == [call("a")]
    third.kill()


async def test_a_start_that_waited_for_a_worker_is_on_disk_soon(make_disk: MakeDisk) -> None:
    disk = make_disk()
    life = Life(disk)
    life.ledger.accept([call("a")])
    await asyncio.wait_for(life.said.wait(), 10.0)
    life.ledger.started("a")
    await life.on_disk()
    life.kill()
    disk.cut()
    after = Life(disk)
    assert after.left.running == [(call("a"), 1)]
    after.kill()


def play(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Compact with a task of each kind; return which of them a `sync` has promised to keep."""
    promised: set[str] = set()
    journal = None
    try:
        journal = Journal(str(disk.folder / "journal"), wait_for_lock_s=0)
        list(journal.recover())
        for number in range(3):
            old, new = f"old{number}", f"new{number}"
            journal.write(accepted(old), Started(old, 1.0), Finished(old, "", b"r" * 500), Forgotten([old]))
            journal.write(accepted(new))
            monkeypatch.setattr(journals, "_COMPACT_ABOVE_BYTES", 0 if number else 1 << 20)
            journal.sync()
            promised.add(new)
        assert "rename journal.new" in disk.calls
    except PowerCut:
        pass
    finally:
        if journal is not None:
            journal.close()
    return promised


def test_a_power_cut_at_any_step_of_a_compaction_takes_nothing_that_was_promised(
    make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_disk()
    assert play(whole, monkeypatch) == {"new0", "new1", "new2"}
    for step in range(len(whole.calls) + 1):
        for new_names in (False, True):
            disk = make_disk()
            disk.ends_before = step
            promised = play(disk, monkeypatch)
            disk.cut(new_names=new_names)
            disk.ends_before = None
            left = Journal(str(disk.folder / "journal"), wait_for_lock_s=0)
            found = {record.task_id for record in left.recover() if isinstance(record, Accepted)}
            left.close()
            assert promised <= found, f"cut before {whole.calls[step : step + 1]}, new names: {new_names}"


def test_a_folder_that_cannot_be_synced_costs_a_compacted_journal_nothing_that_comes_later(
    make_disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_disk()
    journal = Journal(str(disk.folder / "journal"), wait_for_lock_s=0)
    list(journal.recover())
    journal.write(accepted("a"))
    journal.sync()
    monkeypatch.setattr(journals, "_COMPACT_ABOVE_BYTES", 0)
    journal.write(Finished("a", "", b"r" * 500), Forgotten(["a"]), accepted("b"))
    disk.fails = "sync folder"
    for _ in range(2):
        with pytest.raises(HostError) as caught:
            journal.sync()
        assert caught.value.code is Code.JOURNAL_FULL
        assert journal.dirty
    disk.fails = ""
    journal.write(accepted("c"))
    journal.sync()
    journal.close()
    disk.cut()
    left = Journal(str(disk.folder / "journal"), wait_for_lock_s=0)
    assert [record for record in left.recover() if isinstance(record, Accepted)] == [accepted("b"), accepted("c")]
    left.close()


async def test_results_that_the_broker_has_need_no_disk(make_disk: MakeDisk) -> None:
    disk = make_disk()
    life = Life(disk)
    life.ledger.accept([call("a")])
    life.ledger.started("a")
    life.ledger.finished(Outcome("a", b"r"))
    life.ledger.forget("a")
    assert life.ledger.settled()
    assert not any(step.startswith("sync") for step in disk.calls)
    life.kill()
