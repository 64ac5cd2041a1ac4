"""`mep login` where nobody can be asked: one line that says what to do, no traceback, no waiting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOGIN = "login --relay http://127.0.0.1:9"
MEP = [sys.executable, "-c", "from mep.cli import main; main()"]


@pytest.mark.parametrize(
    ("command", "stdin", "says"),
    [
        (LOGIN, "<&-", "--token-stdin"),
        (LOGIN, "</dev/null", "--token-stdin"),
        (f"{LOGIN} --token-stdin", "<&-", "no token on standard input"),
        (f"{LOGIN} --token-stdin", "</dev/null", "no token on standard input"),
        ("login", "<&-", "Give --relay URL"),
        ("whoami", "<&-", "mep login"),
        ("logout", "<&-", "Nobody was logged in"),
    ],
)
def test_without_standard_input_it_says_what_to_do(tmp_path: Path, command: str, stdin: str, says: str) -> None:
    run = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {command} {stdin}', "sh", *MEP],
        env={"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    lines = (run.stdout + run.stderr).splitlines()
    assert says in lines[-1]
    assert "Traceback" not in run.stderr
    assert "INTERNAL" not in run.stderr
