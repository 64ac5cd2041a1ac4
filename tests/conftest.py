"""Guards on every test, and the fixtures that all tiers share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import guards
from support.broker import broker, broker_node  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a process, a thread, another folder or another environment behind."""
    with guards.nothing_left():
        yield


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that every local user can traverse and read (pytest's own tmp_path is root's alone)."""
    made = Path(tempfile.mkdtemp(prefix="mep-test-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def mep() -> str:
    """The `mep` program of the environment under test."""
    program = Path(sys.executable).with_name("mep")
    assert program.exists(), f"{program} is missing: run ./dev env"
    return str(program)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are skipped, and say so, where there is no sandbox with throw-away users."""
    if os.environ.get("MEP_SANDBOX") == "1":
        return
    skip = pytest.mark.skip(reason="needs the sandbox: sudo ./dev test system")
    for item in items:
        if item.get_closest_marker("root") or item.path.parts[-2:-1] == ("system",):
            item.add_marker(skip)
