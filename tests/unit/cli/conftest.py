from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.cli import MepCommand, mapping_file

FOR_ROOT = os.geteuid() == 0


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> MepCommand:
    """The `mep` command on a folder of its own, without anything from the caller's environment."""
    for name in list(os.environ):
        if name.startswith(("MEP_", "GLOBUS_")) and name != "MEP_SANDBOX":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return MepCommand(tmp_path / "etc", capsys)


@pytest.fixture
def endpoint(command: MepCommand, tmp_path: Path) -> Path:
    """The folder of a configured endpoint `e`, whose gate runs as `daemon`, an account that every system has."""
    answer = command.run(
        "configure", "e", "--relay", "http://127.0.0.1:5000", "--id-mapping-config", mapping_file(tmp_path),
        "--gate-user", "daemon",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    return command.etc / "e"
