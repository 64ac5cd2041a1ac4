"""A program under test as a child: its output in a file, its end under control."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mep(*arguments: str | Path) -> list[str]:
    """Return the command line `mep ARGUMENTS` of the environment under test."""
    return [sys.executable, "-m", "mep", *map(str, arguments)]


def clean_environment(user: str = "", extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a login's environment for `user` (default: the caller), plus `extra`; nothing is inherited but
    the checkout's path, so that programs import the mep that is under test."""
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    home = account.pw_dir if user or os.environ.get("MEP_SANDBOX") is None else os.environ["HOME"]
    base = {
        "PATH": SYSTEM_PATH,
        "HOME": home,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "LANG": "C.UTF-8",
    }
    if path := os.environ.get("PYTHONPATH"):
        base["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in path.split(os.pathsep))
    return base | dict(extra or {})


@dataclass
class Program:
    """A running program."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str], user: str = "") -> Program:
        """Start `argv` as `user` (needs root) or as the caller; stdout and stderr go to `log`."""
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [str(word) for word in argv],
                env=dict(env),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                **_credentials(user),
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        """Return all that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, *, within_s: float = 20.0) -> int:
        """SIGTERM; return its exit status. AssertionError (after a SIGKILL) if that does not end it in time."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not end it within {within_s} s:\n{self.tail()}") from None


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    user: str = "",
    within_s: float = 60.0,
    check: bool = True,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; AssertionError with what it printed if it fails."""
    done = subprocess.run(
        [str(word) for word in argv],
        env=dict(env),
        cwd="/",
        input=stdin,
        text=True,
        capture_output=True,
        timeout=within_s,
        check=False,
        **_credentials(user),
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _credentials(user: str) -> _Identity:
    """Return Popen's arguments that make a child `user`."""
    if not user:
        return {}
    account = pwd.getpwnam(user)
    return {
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": os.getgrouplist(user, account.pw_gid),
    }
