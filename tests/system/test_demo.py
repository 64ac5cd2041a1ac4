"""`./dev demo` shows what it promises, in time, and cleans up whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from support.source import ROOT

SANDBOX = [sys.executable, str(ROOT / "tools" / "sandbox.py"), "--"]
DEMO = [sys.executable, str(ROOT / "tools" / "demo.py")]


@pytest.mark.timeout(180)
def test_the_demo_keeps_its_promises_within_a_minute() -> None:
    done = subprocess.run([*SANDBOX, *DEMO, "--json"], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("\n") == 1
    summary = json.loads(done.stdout)
    assert summary["ok"] is True
    assert summary["seconds"] < 60
    names = [check["what"] for check in summary["checks"]]
    assert "alice@example.org ran" in names
    assert "bob@example.org ran" in names
    assert names[-1] == "nothing left behind"
    assert "left running" not in done.stderr


@pytest.mark.timeout(120)
def test_an_interrupted_demo_leaves_nothing() -> None:
    with subprocess.Popen([*SANDBOX, *DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3. "):
                process.send_signal(signal.SIGTERM)
                break
        rest, errors = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "nothing left behind" in rest
    assert "left:" not in rest
    assert "left running" not in errors
