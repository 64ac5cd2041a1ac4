"""`./dev chaos` in small: everything is killed once, and every task has its one outcome."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.source import ROOT

SANDBOX = [sys.executable, str(ROOT / "tools" / "sandbox.py"), "--"]
CHAOS = [sys.executable, str(ROOT / "tools" / "chaos.py")]
KINDS = {"relay", "broker", "gate", "monitor", "gate+monitor", "uep", "worker"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_is_killed_each_task_ends_once_and_rightly() -> None:
    options = ["--tasks", "2000", "--kills", "10", "--minutes", "0.3", "--seed", "5", "--json"]
    done = subprocess.run(
        [*SANDBOX, *CHAOS, *options], capture_output=True, text=True, timeout=280, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-6000:]
    summary = json.loads(done.stdout)
    assert sum(summary["outcomes"].values()) == summary["tasks"] == 2000
    assert summary["outcomes"]["right"] > 1700
    assert set(summary["faults"]) >= KINDS
    assert "left running" not in done.stderr
