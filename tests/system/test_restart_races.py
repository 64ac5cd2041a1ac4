"""A daemon that is killed and started again at once: what its guard still does is about its own processes only."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mep.priv import clone
from mep.wire.privsep import Ready, UepEvent
from support.daemonrig import DaemonRig, claims_for, daemon
from support.remote import titled
from support.wait import until

pytestmark = pytest.mark.timeout(120)

_TIMES = 20
_PACE_S = 0.1  # each guard waits for up to a second: ten of them are at work while the next daemon runs


def ended(rig: DaemonRig) -> list[str]:
    """Return what the monitor says has ended."""
    rig.status()  # all that was known before is in the socket now
    rig.gate.sock.settimeout(0.05)
    try:
        while True:
            rig.hear(Ready)
    except TimeoutError:
        pass
    return [m.uep_id for m in rig.later if isinstance(m, UepEvent) and m.event != "ready"]


def test_a_daemon_started_at_once_after_a_kill_loses_nothing_to_the_guard_of_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(_TIMES):
        with daemon(tmp_path) as rig:
            status = rig.status()
            assert status.kept_by.startswith("cgroup "), "there is no cgroup to test with"
            assert rig.event(rig.start(claims_for(), ["serve"])).event == "ready"
            time.sleep(_PACE_S)
            if number == _TIMES - 1:
                until(lambda: len(titled("mep guard: rig")) == 1, "the guards of the killed ones have ended")
            assert ended(rig) == []
            assert len(rig.status().user_endpoints) == 1
            until(lambda: titled("mep guard: rig"), "the living one has a guard")
            clone.kill(rig.child.pidfd)
    until(lambda: not titled(": rig"), "all are gone")
    assert "the guard is gone" not in capfd.readouterr().err
