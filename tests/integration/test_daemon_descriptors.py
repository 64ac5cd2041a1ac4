"""The monitor's table of descriptors: as large as it may be, not the users'; when it is full nothing is lost."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.daemonrig import DaemonRig, claims_for, daemon
from support.wait import until

pytestmark = pytest.mark.timeout(90)

SOFT = 300  # the limit that the daemon is started with


@contextmanager
def limited(tmp_path: Path) -> Iterator[DaemonRig]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, before[1]))
    try:
        with daemon(tmp_path) as running:
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DaemonRig]:
    with limited(tmp_path) as running:
        yield running


def _limits(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)


def _pid_of(rig: DaemonRig, uep: str) -> int:
    return next(row.pid for row in rig.status().user_endpoints if row.uep_id == uep)


def test_the_monitor_has_all_it_may_have_and_its_users_what_it_was_started_with(rig: DaemonRig) -> None:
    claims = claims_for()
    assert rig.event(rig.start(claims, ["serve"])).event == "ready"
    _, hard = _limits(os.getpid())
    assert _limits(rig.child.pid) == (min(hard, 1 << 20), hard)
    assert _limits(_pid_of(rig, claims.uep)) == (SOFT, hard)


def test_a_start_that_would_fill_the_table_is_refused_and_the_next_goes_through(rig: DaemonRig) -> None:
    _, hard = _limits(rig.child.pid)
    taken = set(map(int, os.listdir(f"/proc/{rig.child.pid}/fd")))
    free = [fd for fd in range(1000) if fd not in taken]
    resource.prlimit(rig.child.pid, resource.RLIMIT_NOFILE, (free[4] + 64, hard))
    requests = {claims.uep: rig.start(claims, ["serve"]) for claims in [claims_for() for _ in range(6)]}
    decisions = {uep: rig.decision(request) for uep, request in requests.items()}
    assert {(d.verdict, d.code) for d in decisions.values()} == {("started", ""), ("refused", "ENDPOINT_FULL")}
    for uep, decision in decisions.items():
        if decision.verdict == "started":
            assert rig.event(requests[uep]).event == "ready"
            os.kill(_pid_of(rig, uep), signal.SIGKILL)
            assert rig.event(requests[uep]).event == "ended"
    assert rig.decision(rig.start(claims_for(), ["serve"])).verdict == "started"


def test_what_happens_while_the_table_is_full_is_seen_to_as_soon_as_it_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A user endpoint that ends, and a command with its file: nobody is forgotten, and no gate is to blame."""
    with limited(tmp_path) as rig:
        claims = claims_for()
        first = rig.start(claims, ["linger", "serve"])
        assert rig.event(first).event == "ready"
        pid, said = _pid_of(rig, claims.uep), ""
        limits = _limits(rig.child.pid)
        resource.prlimit(rig.child.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(pid, signal.SIGKILL)
        second = rig.start(claims_for(), ["serve"])

        def tried() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "it cannot be heard now" in said

        until(tried, "the monitor has tried")
        resource.prlimit(rig.child.pid, resource.RLIMIT_NOFILE, limits)
        assert rig.decision(second).verdict == "started"
        assert rig.event(first).event == "ended"
        assert rig.stop().clean
    assert "gate: exit" not in said + capfd.readouterr().err
