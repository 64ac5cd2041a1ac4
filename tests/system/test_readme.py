"""The commands of the README, typed as they stand there, do what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.program import Program, clean_environment, run
from support.rigs import make_open_dir
from support.source import ROOT
from support.wait import until

URL = "http://127.0.0.1:5000"


def block(language: str, containing: str) -> str:
    """Return the README's code block in `language` that has this text."""
    text = (ROOT / "README.md").read_text()
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(found for found in blocks if containing in found)


def commands() -> list[str]:
    """Return the administrator's command lines, without comments, and without the one that finds the programs."""
    lines = [line.partition("   #")[0].strip() for line in block("sh", "relay serve").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "B="))]


class Shell:
    """Runs command lines of the README in a folder of its own, the relay's in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = clean_environment(extra={"B": str(Path(sys.executable).parent)})
        self.printed: dict[str, str] = {}
        self.relay: Program | None = None

    def type(self, line: str) -> None:
        line = line.replace("/srv/relay", str(self.folder / "relay"))
        if line.startswith("export "):
            credentials = json.loads(self.printed["relay client"])
            self.env["MEP_CLIENT_ID"] = credentials["client_id"]
            self.env["MEP_CLIENT_SECRET"] = credentials["client_secret"]
            return
        if "relay serve" in line:
            argv = ["/bin/sh", "-c", f"exec {line}"]
            self.relay = Program.start(argv, log=self.folder / "relay.log", env=self.env)
            until(lambda: healthy(), "the README's relay is healthy", timeout_s=60)
            return
        done = run(["/bin/sh", "-c", f"cd {shlex.quote(str(self.folder))} && {line}"], env=self.env)
        words = line.split()[1:]
        self.printed[" ".join(words[:2]) if words[0] == "relay" else words[0]] = done.stdout


def healthy() -> bool:
    with urllib.request.urlopen(f"{URL}/healthz", timeout=5) as answer:
        return int(answer.status) == 200


@contextmanager
def shell() -> Iterator[Shell]:
    folder = make_open_dir()
    (folder / "identity_mapping.json").write_text(block("json", "DATA_TYPE"))
    made = Shell(folder)
    try:
        yield made
    finally:
        subprocess.run(
            [sys.executable, "-m", "mep", "stop", "login1"], env=made.env, capture_output=True, check=False
        )
        if made.relay is not None:
            made.relay.stop()


@pytest.mark.timeout(180)
def test_the_quick_starts_work_as_written() -> None:
    with shell() as terminal:
        lines = commands()
        assert lines[-1].endswith("mep stop login1")
        for line in lines[:-1]:
            terminal.type(line)
        assert "login1" in terminal.printed["status"]

        status = run([sys.executable, "-m", "mep", "status", "login1", "--json"], env=terminal.env)
        endpoint_id = json.loads(status.stdout)["endpoint_id"]
        program = terminal.folder / "user.py"
        program.write_text(
            block("python", "Executor").replace('endpoint_id="..."', f'endpoint_id="{endpoint_id}"')
        )
        token = terminal.printed["relay token"].strip().splitlines()[-1]
        user_env = clean_environment("alice", {"MEP_RELAY_URL": URL, "MEP_TOKEN": token})
        answer = run([sys.executable, program], env=user_env, user="alice")
        assert answer.stdout.splitlines() == ["42", "[0, 2, 4, 6, 8]"]

        terminal.type(lines[-1])
        after = run([sys.executable, "-m", "mep", "status", "login1", "--json"], env=terminal.env, check=False)
        assert json.loads(after.stdout)["state"] == "stopped"
