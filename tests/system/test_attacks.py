"""Attempts to make the daemon's root code serve somebody else, by who is outside of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.program import clean_environment

pytestmark = pytest.mark.timeout(120)


def test_a_folder_that_root_starts_the_endpoint_in_brings_no_code(open_dir: Path) -> None:
    theirs = open_dir / "theirs"
    (theirs / "mep").mkdir(parents=True)
    trap = "from pathlib import Path\nPath(__file__).with_name('sprung').touch()\n"
    for name in ("mep/__init__.py", "mep/__main__.py", "click.py", "json.py"):
        (theirs / name).write_text(trap)
    site = open_dir / "etc" / "site"
    site.mkdir(parents=True)
    (site / "config.yaml").write_text("no_such_setting: 1\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mep", "--config-dir", str(open_dir / "etc"), "start", "site"],
        env=clean_environment(extra={"MEP_CLIENT_ID": "id", "MEP_CLIENT_SECRET": "secret"}),
        cwd=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CONFIG_UNKNOWN_KEY" in done.stderr, done.stderr
    assert sorted(theirs.rglob("sprung")) == []
