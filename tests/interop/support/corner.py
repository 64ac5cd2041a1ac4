"""The place where one session's relay, daemons and drivers run: a folder, the throw-away accounts, the programs.

All of it needs port 5000 (stock tools know no other) and users that exist: it runs inside tools/sandbox.py, where
the network, the processes and /etc are private and end with the sandbox.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def why_not() -> str:
    """Return why this process has no corner to work in, or ""."""
    if os.environ.get("MEP_SANDBOX"):
        return ""
    return "not inside the sandbox: run `./dev test interop`, or `./dev sandbox pytest tests/interop`"


@dataclass
class Program:
    """A program that runs in the corner."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, *, within_s: float = 15.0) -> int:
        """SIGTERM, SIGKILL if that is not enough; return its exit status."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.stop(within_s=5)

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log, for messages."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


@dataclass
class Corner:
    """`root` is a folder that every user can traverse."""

    root: Path
    programs: list[Program] = field(default_factory=list)

    def environment(self, user: str = "root", extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a clean environment for a program of `user`."""
        home = str(self.root) if user == "root" else pwd.getpwnam(user).pw_dir
        base = {"PATH": SYSTEM_PATH, "HOME": home, "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"}
        return {**base, **(extra or {})}

    def start(
        self,
        argv: Sequence[str],
        *,
        log: str,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> Program:
        """Start a program: its output goes to the file `log`, or stdout (and stdin) to pipes and stderr there."""
        path = self.root / f"{log}.log"
        with path.open("ab") as sink:
            process = subprocess.Popen(
                argv,
                env=self.environment(user, env),
                cwd="/",
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else sink,
                stderr=sink,
                start_new_session=True,
                **_credentials(user),
            )
        # reaped at once: the stock `stop` waits until the pid is gone, and a zombie's is not
        threading.Thread(target=process.wait, name=f"reaper of {log}", daemon=True).start()
        program = Program(process, path)
        self.programs.append(program)
        return program

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        within_s: float = 60.0,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; AssertionError with what it printed if it fails."""
        done = subprocess.run(
            argv,
            env=self.environment(user, env),
            cwd="/",
            input=stdin,
            text=True,
            capture_output=True,
            timeout=within_s,
            check=False,
            **_credentials(user),
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done


def _descendants(pid: int) -> list[int]:
    """Return all processes below `pid`."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return [*found, *(lower for child in found for lower in _descendants(child))]


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _credentials(user: str) -> _Identity:
    """Return Popen's arguments that make a child `user`."""
    if user == "root":
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


@contextlib.contextmanager
def corner() -> Iterator[Corner]:
    """Make the corner's folder; at the end kill what still runs (all of it is thrown away) and remove it."""
    root = Path(tempfile.mkdtemp(prefix="corner-", dir="/home"))  # private to the sandbox, open to every user
    root.chmod(0o755)
    made = Corner(root)
    try:
        yield made
    finally:
        below = [pid for program in made.programs for pid in _descendants(program.pid)]
        for program in made.programs:
            program.kill()
        for pid in below:  # a stock daemon that is killed leaves its user endpoints
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root, ignore_errors=True)
