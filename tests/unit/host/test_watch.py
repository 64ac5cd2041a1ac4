"""Changes of files are heard, however an editor makes them."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from mep.host.watch import Watch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "template"
    path.write_text("one")
    return path


@pytest.fixture
def watch(file: Path) -> Iterator[Watch]:
    made = Watch([file])
    yield made
    made.close()


def heard(watch: Watch, wait_s: float = 2.0) -> set[Path]:
    return watch.changed() if select.select([watch.fileno()], [], [], wait_s)[0] else set()


def test_writing_replacing_removing_and_chmod_are_heard(watch: Watch, file: Path, tmp_path: Path) -> None:
    file.write_text("two")
    assert heard(watch) == {file}
    (tmp_path / "new").write_text("three")
    assert heard(watch) == set()
    (tmp_path / "new").replace(file)
    assert heard(watch) == {file}
    file.chmod(0o600)
    assert heard(watch) == {file}
    file.unlink()
    assert heard(watch) == {file}
    file.write_text("again")
    assert heard(watch) == {file}


def test_new_files_whose_names_fit_a_pattern_are_heard(file: Path, tmp_path: Path) -> None:
    watch = Watch([file, tmp_path / "*.j2"])
    try:
        (tmp_path / "common.j2").write_text("one")
        (tmp_path / "common.txt").write_text("one")
        assert heard(watch) == {tmp_path / "common.j2"}
    finally:
        watch.close()


def test_a_links_target_is_watched_too(tmp_path: Path) -> None:
    folder = tmp_path / "else"
    folder.mkdir()
    target = folder / "real"
    target.write_text("one")
    link = tmp_path / "link"
    link.symlink_to(target)
    watch = Watch([link])
    try:
        target.write_text("two")
        assert heard(watch) == {target}
    finally:
        watch.close()


def test_a_missing_directory_is_no_error_and_found_later(tmp_path: Path) -> None:
    path = tmp_path / "later" / "file"
    watch = Watch([path])
    try:
        path.parent.mkdir()
        watch.set_paths([path])
        path.write_text("x")
        assert heard(watch) == {path}
    finally:
        watch.close()


def test_when_the_kernel_lost_count_everything_may_have_changed(watch: Watch, file: Path, tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip("the kernel's queue is too long here to fill")
    noise = tmp_path / "noise"
    for _ in range(most):
        noise.touch()
        noise.unlink()
    file.write_text("two")
    assert heard(watch) == {file}
