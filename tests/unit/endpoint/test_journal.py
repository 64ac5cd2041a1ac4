"""What the journal keeps over kills, torn ends and full disks."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.endpoint.journal import Accepted, Finished, Forgotten, Journal, Record, Started


def accepted(task_id: str, buffer: str = "x") -> Accepted:
    return Accepted(task_id, "f", buffer, {}, [])


def reread(path: Path) -> list[Record]:
    journal = Journal(str(path), wait_for_lock_s=0)
    try:
        return list(journal.recover())
    finally:
        journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def filled(path: Path, *records: Record) -> Journal:
    journal = Journal(str(path))
    assert list(journal.recover()) == []
    journal.write(*records)
    return journal


def test_records_come_back_in_order(path: Path) -> None:
    records: list[Record] = [
        accepted("a"),
        Started("a", 1.0),
        accepted("b"),
        Finished("a", "", b"r"),
        Forgotten(["a"]),
    ]
    filled(path, *records).close()
    assert reread(path) == records


def test_what_is_written_survives_a_kill_without_a_sync(path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        filled(path, accepted("a"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert reread(path) == [accepted("a")]


@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_a_torn_end_is_cut_off_and_the_rest_stays(path: Path, cut: int) -> None:
    filled(path, accepted("a"), accepted("b", "y" * 100)).close()
    size = path.stat().st_size
    os.truncate(path, size - cut)
    assert reread(path) == [accepted("a")]
    assert reread(path) == [accepted("a")]


def test_nothing_that_was_cut_off_comes_back(path: Path) -> None:
    filled(path, accepted("a"), accepted("b", "y" * 100), accepted("c")).close()
    path.write_bytes(path.read_bytes().replace(b"yy", b"yz", 1))
    journal = Journal(str(path))
    assert list(journal.recover()) == [accepted("a")]
    journal.write(accepted("d", "x" * 100))  # as long as what was damaged
    journal.close()
    assert reread(path) == [accepted("a"), accepted("d", "x" * 100)]


def test_a_flipped_bit_ends_what_is_believed(path: Path) -> None:
    filled(path, accepted("a"), accepted("b", "y" * 100)).close()
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))
    assert reread(path) == [accepted("a")]


def test_writing_goes_on_behind_a_torn_end(path: Path) -> None:
    filled(path, accepted("a")).close()
    with path.open("ab") as file:
        file.write(b"\x10\x00\x00\x00torn")
    journal = Journal(str(path))
    list(journal.recover())
    journal.write(accepted("b"))
    journal.close()
    assert reread(path) == [accepted("a"), accepted("b")]


def test_a_file_that_is_no_journal_is_set_aside(path: Path) -> None:
    path.write_bytes(b"something else entirely")
    assert reread(path) == []
    assert path.with_name("journal.unreadable").read_bytes() == b"something else entirely"


def test_compaction_keeps_the_living_and_the_last_ids(path: Path) -> None:
    journal = filled(path)
    for number in range(300):
        journal.write(accepted(f"t{number}", "x" * 10_000), Started(f"t{number}", 1.0))
        journal.write(Finished(f"t{number}", "", b"r"), Forgotten([f"t{number}"]))
    journal.write(accepted("alive", "z"), Started("alive", 2.0))
    assert journal.wasteful
    journal.sync()
    assert path.stat().st_size < 50_000
    journal.write(Finished("alive", "", b"end"))
    journal.close()
    records = reread(path)
    assert records[-3:] == [accepted("alive", "z"), Started("alive", 2.0), Finished("alive", "", b"end")]
    assert isinstance(records[0], Forgotten)
    assert "t299" in records[0].task_ids


def test_a_write_that_does_not_fit_leaves_the_file_as_it_was(path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            journal = filled(path, accepted("a"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            try:
                journal.write(accepted("b", "y" * 10_000))
            except HostError as error:
                journal.write(accepted("c"))
                status = 0 if error.code is Code.JOURNAL_FULL else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    wanted = path.with_name("wanted")
    filled(wanted, accepted("a"), accepted("c")).close()
    assert path.read_bytes() == wanted.read_bytes()
    assert reread(path) == [accepted("a"), accepted("c")]


def test_a_full_disk_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(HostError, match="is full") as caught:
        journal.write(accepted("a"))
    assert caught.value.code is Code.JOURNAL_FULL
    journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_whatever_is_in_the_file_it_can_be_opened(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "journal"
    filled(path, accepted("a")).close()
    with path.open("ab") as file:
        file.write(garbage)
    assert reread(path)[0] == accepted("a")
    path.write_bytes(garbage)
    reread(path)


def test_a_second_process_cannot_have_it(path: Path) -> None:
    journal = filled(path)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Journal(str(path), wait_for_lock_s=0.1)
        except HostError as error:
            status = 0 if error.code is Code.ALREADY_RUNNING else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    journal.close()
