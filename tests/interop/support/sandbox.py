"""A corner of this machine for one test session: its own network, processes and accounts.

Namespaces, no container: a private network (so that port 5000, which stock tools insist on, is free), private
process ids (whatever is left dies with the corner), and a private mount table in which /etc/passwd, /etc/group
and /etc/shadow are copies with a few more accounts. The host's files are never written. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FIRST_UID = 21001
GATE_UID = 20999
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_HOLDER = """
set -e
ip link set lo up
for f in passwd group shadow; do mount --bind "$1/etc/$f" "/etc/$f"; done
echo ready
read -r _ || true   # ends with its stdin: then the kernel ends everything in here
"""


@dataclass(frozen=True)
class Account:
    """A local account that exists only inside."""

    name: str
    uid: int
    home: Path


@dataclass
class Inside:
    """A program that runs inside. `pid` is its id as seen from the host."""

    process: subprocess.Popen[bytes]
    argv: Sequence[str]
    log: Path | None

    @property
    def pid(self) -> int:
        """nsenter forks to get into the process namespace: the program is its one child."""
        nsenter = self.process.pid
        children = Path(f"/proc/{nsenter}/task/{nsenter}/children").read_text().split()
        return int(children[0])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.pid, number)

    def stop(self, *, within_s: float = 15.0) -> int:
        """SIGTERM, SIGKILL if that is not enough; return its exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self.process.wait(5)

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log, for messages."""
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Sandbox:
    """The corner. `root` is world-traversable; each account has its home below it."""

    root: Path
    accounts: dict[str, Account]
    holder: subprocess.Popen[bytes]
    _inside: list[Inside] = field(default_factory=list)

    def enter(self, argv: Sequence[str], *, user: str = "root", cwd: Path | str = "/") -> list[str]:
        """Return the command line that runs `argv` inside, as `user`."""
        target = str(_first_child(self.holder.pid))
        command = ["nsenter", "--target", target, "--mount", "--net", "--pid", f"--wdns={cwd}", "--"]
        if user != "root":
            uid = str(self.accounts[user].uid)
            command += ["setpriv", "--reuid", uid, "--regid", uid, "--init-groups", "--"]
        return [*command, *argv]

    def environment(self, user: str = "root", extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a clean environment for a program of `user`."""
        home = self.root / "root" if user == "root" else self.accounts[user].home
        base = {"PATH": SYSTEM_PATH, "HOME": str(home), "USER": user, "LOGNAME": user, "LANG": "C.UTF-8"}
        return {**base, **(extra or {})}

    def start(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        log: Path | None = None,
        pipes: bool = False,
    ) -> Inside:
        """Start a program inside; its output goes to `log`, or to pipes (stdin, stdout) with stderr in `log`."""
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(log.open("ab")) if log is not None else subprocess.DEVNULL
            process = subprocess.Popen(
                self.enter(argv, user=user, cwd=cwd),
                env=self.environment(user, env),
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else sink,
                stderr=sink,
                start_new_session=True,
            )
        inside = Inside(process, argv, log)
        self._inside.append(inside)
        return inside

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        within_s: float = 60.0,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end; a failure shows what it printed."""
        done = subprocess.run(
            self.enter(argv, user=user, cwd=cwd),
            env=self.environment(user, env),
            input=stdin,
            text=True,
            capture_output=True,
            timeout=within_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done

    def processes(self) -> dict[int, str]:
        """Return host pid -> command line of everything that runs inside, apart from the holder."""
        init = _first_child(self.holder.pid)
        mine = os.readlink(f"/proc/{init}/ns/pid")
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == init:
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == mine:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def close(self) -> None:
        """End everything inside and remove every file of it."""
        self.holder.kill()  # --kill-child: the kernel kills the namespace's init, and so all of it
        self.holder.wait()
        for inside in self._inside:
            with contextlib.suppress(subprocess.TimeoutExpired):
                inside.process.wait(10)
            for pipe in (inside.process.stdin, inside.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        shutil.rmtree(self.root, ignore_errors=True)


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _write_accounts(root: Path, accounts: Sequence[Account]) -> None:
    etc = root / "etc"
    etc.mkdir()
    extra = [*accounts, Account("mep", GATE_UID, Path("/nonexistent"))]
    known = {line.split(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    new = [a for a in extra if a.name not in known]

    def copy(name: str, lines: list[str], mode: int) -> None:
        text = Path(f"/etc/{name}").read_text()
        target = etc / name
        target.write_text(text.rstrip("\n") + "\n" + "".join(f"{line}\n" for line in lines))
        target.chmod(mode)

    copy("passwd", [f"{a.name}:x:{a.uid}:{a.uid}:{a.name}:{a.home}:/bin/sh" for a in new], 0o644)
    copy("group", [f"{a.name}:x:{a.uid}:" for a in new], 0o644)
    copy("shadow", [f"{a.name}:*:19000:0:99999:7:::" for a in new], 0o640)
    for account in accounts:
        account.home.mkdir(parents=True)
        os.chown(account.home, account.uid, account.uid)
        account.home.chmod(0o700)


@contextlib.contextmanager
def sandbox(users: Sequence[str]) -> Iterator[Sandbox]:
    """Make the corner with an account for each of `users`; gone, with all that ran in it, at the end."""
    root = Path(tempfile.mkdtemp(prefix="mep-corner-", dir="/var/tmp"))  # not /tmp: users must get through
    root.chmod(0o755)
    (root / "root").mkdir(mode=0o700)
    accounts = [Account(name, FIRST_UID + i, root / "home" / name) for i, name in enumerate(users)]
    _write_accounts(root, accounts)
    namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        ["unshare", *namespaces, "--propagation", "private", "bash", "-c", _HOLDER, "holder", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    corner = Sandbox(root, {a.name: a for a in accounts}, holder)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise AssertionError("the private namespaces could not be made (root needed)")
        yield corner
    finally:
        corner.close()
        for pipe in (holder.stdin, holder.stdout):
            if pipe is not None:
                pipe.close()
