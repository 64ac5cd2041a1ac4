"""Files that steer root: read only if nobody else can have written them; the message names which and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mep.base.errors import HostError, InputError
from mep.host.trusted import check_directory, open_trusted, read_own, read_trusted

ME = os.geteuid()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "config.yaml"
    path.parent.mkdir()
    path.write_text("relay: x\n")
    path.chmod(0o644)
    return path


def refused(path: Path, **options: bool) -> str:
    with pytest.raises(HostError) as caught:
        read_trusted(path, owner_uid=ME, **options)
    return caught.value.for_admin()


def test_a_safe_file_is_read(file: Path) -> None:
    assert read_trusted(file, owner_uid=ME) == "relay: x\n"
    check_directory(file.parent, owner_uid=ME)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    text = refused(file)
    assert str(file) in text
    assert f"{mode:04o}" in text


def test_a_parent_that_others_can_write_is_refused_by_its_name(file: Path) -> None:
    file.parent.chmod(0o777)
    assert f"{file.parent} can be written" in refused(file)


def test_a_sticky_directory_is_no_danger_for_our_own_files(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert read_trusted(file, owner_uid=ME)


def test_a_private_file_must_be_private(file: Path) -> None:
    assert "can be read by others" in refused(file, private=True)
    file.chmod(0o600)
    with open_trusted(file, owner_uid=ME, private=True) as fd:
        assert os.read(fd, 100) == b"relay: x\n"


@pytest.mark.skipif(ME != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(file: Path) -> None:
    os.chown(file, 12345, 0)
    assert "belongs to uid 12345" in refused(file)
    os.chown(file, 0, 0)
    link = file.parent / "link"
    link.symlink_to(file)
    os.chown(link, 12345, 0, follow_symlinks=False)
    assert f"{link} belongs to uid 12345" in refused(link)


def test_links_are_followed_and_what_they_lead_through_is_checked(file: Path, tmp_path: Path) -> None:
    safe, unsafe = tmp_path / "safe", tmp_path / "unsafe"
    safe.symlink_to("etc/../etc/config.yaml")
    assert read_trusted(safe, owner_uid=ME) == "relay: x\n"
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "config.yaml").write_text("evil\n")
    unsafe.symlink_to(tmp_path / "open" / "config.yaml")
    assert f"{tmp_path / 'open'} can be written" in refused(unsafe)


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "too many symbolic links" in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_only_regular_files_are_read_and_nothing_blocks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    path.chmod(0o755)
    assert "not a regular file" in refused(path)


def test_a_missing_file_a_large_one_and_one_that_is_no_text(file: Path) -> None:
    with pytest.raises(HostError, match="CONFIG_UNREADABLE"):
        read_trusted(file.parent / "nothing", owner_uid=ME)
    with pytest.raises(InputError, match="larger than 4 bytes"):
        read_trusted(file, owner_uid=ME, max_bytes=4)
    file.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="byte 3"):
        read_trusted(file, owner_uid=ME)


def test_an_owners_own_files_are_read_as_they_are(file: Path) -> None:
    file.chmod(0o666)
    assert read_own(file) == "relay: x\n"
    with pytest.raises(HostError, match="CONFIG_UNREADABLE"):
        read_own(file.parent / "nothing")
    with pytest.raises(InputError, match="larger"):
        read_own(file, max_bytes=3)


def test_no_descriptor_is_left_open(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    read_trusted(file, owner_uid=ME)
    file.chmod(0o666)
    refused(file)
    assert len(os.listdir("/proc/self/fd")) == before
