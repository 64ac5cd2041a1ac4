"""The linters, one table: `./dev check` runs them, and so does tests/architecture/test_linters.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devenv import Environment

PYTHON_FOLDERS = ("src", "tests", "tools")


def commands(root: Path) -> dict[str, list[str]]:
    """Return the linters of the checkout at `root`: name to command line, to be run in that folder."""
    linters = {
        "ruff check": ["ruff", "check", "-q", *PYTHON_FOLDERS],
        "ruff format": ["ruff", "format", "-q", "--check", "--diff", *PYTHON_FOLDERS],
        "mypy": ["mypy", "--no-error-summary"],
        "import contracts": ["env", "PYTHONPATH=src", "lint-imports", "--no-cache"],
        "shellcheck": ["shellcheck", *shell_files(root)],
    }
    return linters if shell_files(root) else {k: v for k, v in linters.items() if k != "shellcheck"}


def shell_files(root: Path) -> list[str]:
    """Return the shell scripts of the checkout, by their first line, relative to it."""
    names = ["dev", ".ci/run"]  # an exported tree has no git, nor need the machine
    if (root / ".git").exists() and shutil.which("git") is not None:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "-co", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        )
        names = [name for name in listed.stdout.decode().split("\0") if name]
    return sorted(name for name in names if _is_shell(root / name))


def run_all(environment: Environment) -> int:
    """Run every linter, print what it says, and return 1 if one of them complains."""
    worst = 0
    for name, command in commands(environment.root).items():
        started = time.monotonic()
        found = subprocess.run(
            command,
            cwd=environment.root,
            env=environment.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        verdict = "ok" if found.returncode == 0 else "FAILED"
        print(f"{name:18} {verdict:7} {time.monotonic() - started:5.1f} s", flush=True)
        if found.returncode:
            worst = 1
            sys.stdout.write(found.stdout)
    return worst


def _is_shell(path: Path) -> bool:
    if not path.is_file() or path.suffix == ".py":
        return False
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and any(shell in first for shell in (b"/sh", b"/bash", b"env bash", b"/dash"))
