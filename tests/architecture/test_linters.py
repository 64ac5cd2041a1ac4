"""The linters are tests: what they refuse does not land."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

import linters
from support.source import ROOT


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(linters.commands(ROOT)))
def test_linter_is_content(name: str) -> None:
    command = linters.commands(ROOT)[name]
    if shutil.which(command[0]) is None:
        # a laptop may lack shellcheck; continuous integration may not
        assert os.environ.get("CI", "") in ("", "0", "false"), f"{command[0]} is not installed"
        pytest.skip(f"{command[0]} is not installed")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_shell_script_is_found() -> None:
    assert {"dev", ".ci/run"} <= set(linters.shell_files(ROOT))
