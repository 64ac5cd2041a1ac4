"""Guards on every test, and the fixtures that all tiers share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import setproctitle
from hypothesis import settings

from support import guards
from support.broker import broker, broker_node
from support.rigs import endpoint, open_dir, relay, sdk_env

__all__ = ["broker", "broker_node", "endpoint", "open_dir", "relay", "sdk_env"]

# forked children name themselves; where to write that is found by way of the environment, before a test changes it
setproctitle.getproctitle()

# no deadline: machines are shared; the same examples each time in CI, so that red is about the change; no
# database: the checkout may be somebody else's
settings.register_profile(
    "mep", deadline=None, database=None, derandomize=os.environ.get("CI", "") not in ("", "0", "false")
)
settings.load_profile("mep")


_RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Keep random ids out of tests' names: two processes that share the tests must agree on them."""
    return _RANDOM_ID.sub("id", val) if isinstance(val, str) and _RANDOM_ID.search(val) else None


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a process, a thread, another folder or another environment behind."""
    with guards.nothing_left():
        yield


@pytest.fixture(scope="session")
def mep() -> str:
    """The `mep` program of the environment under test."""
    program = Path(sys.executable).with_name("mep")
    assert program.exists(), f"{program} is missing: run ./dev env"
    return str(program)


#: Tests of what forks as the daemon does, and refuses to beside a second thread.
_FORKING = ("tests/unit/priv/", "tests/unit/daemon/", "tests/integration/test_daemon")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that cannot run here are skipped, and say why.

    Those marked `root`, and all of tests/system, need throw-away users; those marked `alone` need a process
    without pytest-xdist's thread (./dev test runs them afterwards).
    """
    for item in items:
        if any(part in item.path.as_posix() for part in _FORKING):
            item.add_marker(pytest.mark.alone)
        if "PYTEST_XDIST_WORKER" in os.environ and item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.skip(reason="needs a process of its own: run it without -n"))
    if os.environ.get("MEP_SANDBOX") == "1":
        return
    skip = pytest.mark.skip(reason="needs the sandbox: sudo ./dev test system")
    for item in items:
        if item.get_closest_marker("root") or "system" in item.path.parts[-3:-1]:
            item.add_marker(skip)
