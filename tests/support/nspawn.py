"""A container with a real systemd: the machine's own files under a throw-away layer, booted by systemd-nspawn.

The environment under test, RabbitMQ's port and the test's own relay are simply there: root is an overlay, and the
network is shared. Boots in half a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from support import guards
from support.program import SYSTEM_PATH
from support.remote import titled
from support.wait import until

_CGROUPS = Path("/sys/fs/cgroup")


class Container:
    """One machine. `root`: its files, to be changed before and after `boot`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.root = folder / "root"
        self._own: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=2G", "tmpfs", folder], check=True)
        for part in ("up", "work", "root"):
            (folder / part).mkdir()
        layers = f"lowerdir=/,upperdir={folder}/up,workdir={folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        self._clear()

    def _clear(self) -> None:
        """Let nothing of the machine start: its services would fight for the shared ports."""
        self.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)
        self.write("/etc/machine-id", "")
        for wants in ("multi-user", "sockets", "timers", "sysinit"):
            shutil.rmtree(self.path(f"/etc/systemd/system/{wants}.target.wants"), ignore_errors=True)

    def path(self, inside: str | Path) -> Path:
        """Return where a file of the container is, seen from here."""
        return self.root / str(inside).lstrip("/")

    def write(self, inside: str | Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the container, and the folders above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def add_user(self, name: str, uid: int) -> None:
        """Make an account with a home."""
        for file, line in {
            "passwd": f"{name}:x:{uid}:{uid}::/home/{name}:/bin/sh",
            "group": f"{name}:x:{uid}:",
            "shadow": f"{name}:*:19000:0:99999:7:::",
        }.items():
            with self.path(f"/etc/{file}").open("a") as accounts:
                accounts.write(f"{line}\n")
        home = self.path(f"/home/{name}")
        home.mkdir(mode=0o700, parents=True)
        os.chown(home, uid, uid)

    # ---- life ----

    def boot(self, *, pure: bool = True) -> None:
        """Return when it is up. `pure`: cgroups version 2 only; else version 1 beside it, as the machine has."""
        self._own = _own_cgroups(self._name)
        join = "".join(f"echo $$ >{group}/cgroup.procs && " for group in self._own)
        nspawn = ["systemd-nspawn", "-D", self.root, "-M", self._name, "--boot", "--register=no", "--keep-unit"]
        nspawn += ["--console=pipe", *(f"--bind-ro={path}" for path in _elsewhere())]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f'{join}exec "$@"', "sh", *map(str, nspawn)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"PATH": SYSTEM_PATH, **({"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"} if pure else {})},
            )
        guards.expected.add(self._process.pid)
        self._leader = until(self._find_leader, "the container has a process 1")
        states = ("running", "degraded")
        until(lambda: self.run("systemctl", "is-system-running", check=False) in states, "the container is up")

    def _find_leader(self) -> int:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text(errors="replace")
        for child in _children(self._process.pid):
            if (Path(f"/proc/{child}/status").read_text().partition("\nNSpid:")[2].split("\n")[0]).endswith("\t1"):
                return child
        return 0

    def close(self) -> None:
        """Power it off, hard if need be, and give everything back."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                for switch in filter(Path.exists, (group / "cgroup.kill" for group in self._own)):
                    switch.write_text("1")
                self._process.wait(10)
        for group in [*self._own, *(mirrors := _mirrors(self._own))]:
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        for mirror in mirrors:
            with suppress(OSError):  # another container's is in it, or it is not nspawn's
                mirror.parent.rmdir()
        subprocess.run(["umount", "-l", self.root], check=True)
        subprocess.run(["umount", "-l", self._folder], check=True)

    # ---- inside ----

    def run(self, *argv: str | Path, check: bool = True, within_s: float = 60.0) -> str:
        """Run a program inside, as root; return what it prints (both streams)."""
        done = self.call(*argv, within_s=within_s)
        text = done.stdout.strip()
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}: {text}"
        return text

    def call(self, *argv: str | Path, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root."""
        environment = [f"PATH={SYSTEM_PATH}", "LANG=C.UTF-8", "SYSTEMD_COLORS=0", *python_path()]
        return subprocess.run(
            ["nsenter", "-t", str(self._leader), "-a", "env", "-i", *environment, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
            check=False,
        )

    def processes(self, uid: int) -> dict[int, str]:
        """Return the living processes of an account inside: pid, seen from here, and cgroup, seen from inside."""
        found = {}
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid and not _is_zombie(int(entry)):
                    found[int(entry)] = self.cgroup_of(int(entry))
            except (OSError, IndexError):
                continue
        return found

    def processes_like(self, command: str) -> list[int]:
        """Return the living processes inside whose command line is `command`."""
        return [pid for pid in titled(command) if self.has(pid)]

    def login(self, user: str) -> str:
        """Open a session as somebody who logs in; return what ends it."""
        unit = f"login-of-{user}"
        self.run("systemd-run", "-q", "--unit", unit, "-p", f"User={user}", "-p", "PAMName=login", "sleep", "999")
        until(lambda: self.processes_like("sleep 999"), "the session is there")
        return unit

    def logout(self, login: str) -> None:
        """End it."""
        self.run("systemctl", "stop", login)

    def shares_mounts(self, pid: int) -> bool:
        """Tell whether a process sees the file systems that everybody inside sees."""
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{self._leader}/ns/mnt")

    def has(self, pid: int) -> bool:
        """Tell whether a process, as numbered here, is inside."""
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self._leader}/ns/pid")

    def cgroup_of(self, pid: int) -> str:
        """Return where a process is, from the container's own point of view."""
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
        return path.partition("/payload")[2]


def why_not() -> str:
    """Return why this machine can boot no container, or ""."""
    if shutil.which("systemd-nspawn") is None:
        return "needs systemd-nspawn: apt install systemd-container"
    if not Path("/lib/systemd/systemd-logind").exists() and not Path("/usr/lib/systemd/systemd-logind").exists():
        return "needs systemd: apt install systemd libpam-systemd dbus"
    return "" if any(line.startswith("0::") for line in _own_lines()) else "needs cgroup version 2"


def python_path() -> list[str]:
    """Return what makes programs inside import the mep that is under test."""
    given = os.environ.get("PYTHONPATH")
    return [f"PYTHONPATH={os.pathsep.join(map(os.path.abspath, given.split(os.pathsep)))}"] if given else []


def _elsewhere() -> Sequence[str]:
    """Return what the environment under test consists of and is not on the machine's root file system."""
    device = os.stat("/").st_dev
    wanted = [sys.prefix, *(path for entry in python_path() for path in entry.partition("=")[2].split(os.pathsep))]
    return [path for path in wanted if os.stat(path).st_dev != device or path.startswith(("/tmp/", "/run/"))]


def _own_lines() -> list[str]:
    return Path("/proc/self/cgroup").read_text().splitlines()


def _own_cgroups(name: str) -> list[Path]:
    """Make a cgroup of the container's own below this process's, in each hierarchy that systemd uses."""
    made = []
    for line in _own_lines():
        _, controllers, path = line.split(":", 2)
        mounts = {"": ("unified", "."), "name=systemd": ("systemd",)}.get(controllers, ())
        for mount in mounts:
            if (_CGROUPS / mount / "cgroup.procs").exists():
                group = _CGROUPS / mount / path.lstrip("/") / name
                group.mkdir(exist_ok=True)
                made.append(group)
                break
    return made


def _mirrors(own: Sequence[Path]) -> list[Path]:
    """Return what nspawn made beside: the path of version 2, in version 1's hierarchy."""
    unified, systemd = _CGROUPS / "unified", _CGROUPS / "systemd"
    mirrors = [systemd / group.relative_to(unified) for group in own if group.is_relative_to(unified)]
    return [mirror for mirror in mirrors if mirror.is_dir()]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, listed.read_text().split())
    return found + [grandchild for child in found for grandchild in _children(child)]


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
