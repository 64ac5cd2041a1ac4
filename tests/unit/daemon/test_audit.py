"""The audit log: whole lines, rotated, and loud when it cannot be written."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from mep.base.clock import Clock
from mep.base.errors import HostError
from mep.daemon.audit import AuditLog

CLOCK = Clock(wall=lambda: 1_800_000_000.25)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_one_line_with_time_and_fields(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", clock=CLOCK)
    audit.open()
    assert audit.write("start-refused", identity="eve@example.org", code="IDENTITY_NOT_MAPPED")
    opened, refused = lines(tmp_path / "audit.log")
    assert opened["event"] == "log-opened"
    assert refused == {
        "time": "2027-01-15T08:00:00.250+00:00",
        "event": "start-refused",
        "identity": "eve@example.org",
        "code": "IDENTITY_NOT_MAPPED",
    }


def test_a_field_cannot_forge_a_line_or_grow_without_bound(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", clock=CLOCK)
    audit.write("task", function='x"}\n{"event": "forged"}' + "y" * 10_000)
    (only,) = lines(tmp_path / "audit.log")
    assert only["event"] == "task"
    assert len(str(only["function"])) == 2000


def test_it_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log")
    audit.write("x")
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_it_rotates_and_keeps_so_many(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log", max_bytes=300, keep=2, clock=CLOCK)
    for number in range(40):
        assert audit.write("task", number=number)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audit.log", "audit.log.1", "audit.log.2"]
    kept = [e["number"] for name in ("audit.log.2", "audit.log.1", "audit.log") for e in lines(tmp_path / name)]
    assert kept == list(range(int(str(kept[0])), 40))
    assert all(p.stat().st_size <= 300 for p in tmp_path.iterdir())


def test_a_full_disk_makes_it_unhealthy_until_a_line_goes_through_again(tmp_path: Path) -> None:
    full = Path("/dev/full")
    changes: list[bool] = []
    audit = AuditLog(full, on_change=lambda healthy, _why: changes.append(healthy))
    with pytest.raises(HostError, match=r"takes no work"):
        audit.open()
    assert not audit.check()
    audit.path = tmp_path / "audit.log"
    assert audit.check()
    assert changes == [False, True]


def test_half_a_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = AuditLog(path)
    audit.open()
    before = path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        assert not audit.write("start-refused", identity="eve@example.org")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == before
    assert audit.check()
    assert [line["event"] for line in lines(path)] == ["log-opened", "log-resumed"]


def test_without_a_path_it_is_silent_and_healthy() -> None:
    audit = AuditLog(None)
    audit.open()
    assert audit.write("anything")
    assert audit.check()


@pytest.mark.parametrize("planted", ["fifo", "hard link", "symbolic link"])
def test_what_somebody_else_put_in_its_place_is_not_written_to(tmp_path: Path, planted: str) -> None:
    path, theirs = tmp_path / "audit.log", tmp_path / "theirs"
    theirs.touch()
    if planted == "fifo":
        os.mkfifo(path)
    elif planted == "hard link":
        path.hardlink_to(theirs)
    else:
        path.symlink_to(theirs)
    audit = AuditLog(path)
    with pytest.raises(HostError, match="takes no work"):
        audit.open()
    assert theirs.read_text() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes another user's file")
def test_another_users_file_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.touch()
    os.chown(path, 12345, 12345)
    with pytest.raises(HostError):
        AuditLog(path).open()
    assert path.read_text() == ""


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_lines_go_to_a_new_file_when_somebody_else_took_the_old_one_away(tmp_path: Path, how: str) -> None:
    path, away = tmp_path / "audit.log", tmp_path / "audit.log.old"
    audit = AuditLog(path)
    audit.open()
    if how == "removed":
        path.unlink()
    else:
        path.rename(away)
    if how == "replaced":  # as logrotate's `create` does
        path.touch(mode=0o600)
    assert audit.write("after")
    assert [line["event"] for line in lines(path)] == ["after"]
    assert how == "removed" or [line["event"] for line in lines(away)] == ["log-opened"]
