"""One cgroup (version 2) per user endpoint: whoever is in it can be killed, all of them, at once."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import select
import time
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv import clone

_WANTED = frozenset({"memory", "pids", "cpu"})
_OCTAL = re.compile(r"\\([0-7]{3})")


def find_base(pid: int | str = "self") -> Path | None:
    """Return the directory of a process's own cgroup, or None without cgroup v2 or without `cgroup.kill`.

    Under systemd that is the unit's delegated subtree; a hybrid machine has v2 beside v1 and serves as well.
    Privilege: none.
    """
    mount = _unified_mount(Path("/proc/self/mountinfo").read_text())
    own = _own_path(Path(f"/proc/{pid}/cgroup").read_text())
    if mount is None or own is None:
        return None
    base = mount / own.lstrip("/")
    return base if base.is_dir() else None


def offered_by_system() -> frozenset[str]:
    """Return which of the controllers we use a unit of this system can have. Privilege: none."""
    mount = _unified_mount(Path("/proc/self/mountinfo").read_text())
    return _offered(mount) if mount is not None else frozenset()


def attainable(base: Path) -> frozenset[str]:
    """Return which of them a process that is started from here could hand down. Privilege: none.

    None where others live in our cgroup, as beside a shell.
    """
    return _offered(base) if _is_topmost(base) or _is_alone(base) else frozenset()


def _unified_mount(mountinfo: str) -> Path | None:
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == "cgroup2":
            return Path(_OCTAL.sub(lambda m: chr(int(m[1], 8)), left.split(" ")[4]))
    return None


def _own_path(cgroups: str) -> str | None:
    for line in cgroups.splitlines():
        if line.startswith("0::"):
            path = line[3:]
            return None if path.startswith("/..") else path
    return None


class Cgroup:
    """One directory of the cgroup tree. `fd` is what a child is cloned into."""

    def __init__(self, path: Path) -> None:
        """Make the cgroup anew, as far as nobody lives in an older one of that name: its counters are not ours.

        OSError as the kernel says. Privilege: write access to the parent.
        """
        self.path = path
        remove_tree(path)
        path.mkdir(exist_ok=True)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Kill every process in it and below, at once. Privilege: write access."""
        _write(self.fd, "cgroup.kill", "1")

    def is_empty(self) -> bool:
        """Tell whether no process is left in it and below. Privilege: none."""
        return "populated 0" in _read(self.fd, "cgroup.events")

    def pids(self) -> list[int]:
        """Return the processes in it and below. Privilege: none."""
        files = [Path(folder, "cgroup.procs") for folder, _, _ in os.walk(self.path)]
        found: list[int] = []
        for file in files:
            try:
                found += [int(line) for line in file.read_text().split()]
            except OSError:
                continue  # removed meanwhile
        return found

    def open_events(self) -> int:
        """Return an fd that polls POLLPRI when the cgroup becomes empty (or not). Privilege: none."""
        return os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)

    def memory_events(self) -> dict[str, int]:
        """Return how often what happened for lack of memory: "oom" at this limit or one below, "oom_kill" for
        whatever reason; nothing where nobody counts. Privilege: none."""
        pairs = (line.partition(" ") for line in _read(self.fd, "memory.events").splitlines())
        return {name: int(count) for name, _, count in pairs}

    def limit(self, name: str, value: str) -> None:
        """Set a controller's file, as `memory.max`. It is not there where that controller is not delegated to us.

        OSError if it is there and the kernel refuses. Privilege: write access.
        """
        try:
            _write(self.fd, name, value)
        except FileNotFoundError:
            return

    def hand_down(self) -> None:
        """Let the cgroups below have the controllers, too; no process may be in this one. Privilege: write."""
        _hand_down(self.path)

    def remove(self) -> bool:
        """Remove the empty cgroup and what its processes made below; False if one lives. Privilege: write."""
        os.close(self.fd)
        self.fd = -1
        return remove_tree(self.path)


def remove_tree(path: Path) -> bool:
    """Remove `path` and the cgroups below, deepest first; False if one is not empty. Privilege: write access."""
    for directory, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def kill_tree(path: Path) -> None:
    """Kill every process in `path` and below, if it exists. Privilege: write access."""
    try:
        (path / "cgroup.kill").write_text("1")
    except OSError:
        pass


def kill_and_remove(path: Path, *, most_s: float = 5.0) -> bool:
    """Kill all in `path` and below, wait for their end and remove it. False if that took too long.

    Privilege: write access.
    """
    kill_tree(path)
    wait_empty(path, most_s)
    return remove_tree(path)


def wait_empty(path: Path, most_s: float) -> None:
    """Return when nobody lives in `path` and below, or after `most_s`. Privilege: none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _wait_empty(fd, most_s)
    finally:
        os.close(fd)


def empty_fd(directory_fd: int, most_s: float) -> None:
    """Kill all in the cgroup behind the fd, and wait for their end, `most_s` at most. Privilege: write access."""
    _write(directory_fd, "cgroup.kill", "1")
    _wait_empty(directory_fd, most_s)


def join_fd(directory_fd: int) -> None:
    """Move this process into the cgroup behind the fd: 10 ms. OSError as the kernel says. Privilege: root."""
    _write(directory_fd, "cgroup.procs", "0")


def _wait_empty(directory_fd: int, most_s: float) -> None:
    try:
        events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    except FileNotFoundError:
        return  # somebody else has removed it
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI | select.POLLERR)
        until = time.monotonic() + most_s
        while b"populated 1" in os.pread(events, 256, 0):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            poll.poll(left_s * 1000)
    except OSError as error:
        if error.errno != errno.ENODEV:  # removed meanwhile
            raise
    finally:
        os.close(events)


def tree_name(label: str, unique: str) -> str:
    """Return what the names of an endpoint's cgroups begin with, wherever they are; a dot follows."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", label)[:60]
    digest = hashlib.sha256(unique.encode()).hexdigest()[:8]
    return f"mep-{safe}-{digest}"


class Tree:
    """The cgroups of one run of an endpoint: `root`, with one `uep-<id>` per user endpoint and one for the gate.

    Each run has a root of its own: the guard of the run before may still be about to kill all in its own.
    """

    def __init__(self, base: Path, label: str, unique: str) -> None:
        """`unique` tells two endpoints of one name apart: any text that is this endpoint's alone."""
        self._name = tree_name(label, unique)
        self.root = base / f"{self._name}.{secrets.token_hex(4)}"

    def older(self) -> list[Path]:
        """Return the roots of other runs that are still there. Privilege: none."""
        return [path for path in self.root.parent.glob(f"{self._name}.*") if path != self.root]

    def make(self, name: str) -> Cgroup:
        """Make the cgroup `name`; HostError(SPAWN_FAILED) if the kernel refuses. Privilege: write access."""
        try:
            return Cgroup(self.root / name)
        except OSError as error:
            raise HostError(
                Code.SPAWN_FAILED,
                "The endpoint could not make a container for your processes.",
                admin_text=f"Cannot make the cgroup {self.root / name}: {error}.",
            ) from None

    def usable(self) -> bool:
        """Try it: make a cgroup, clone a child into it, kill and remove. Privilege: none needed to ask."""
        try:
            self.root.mkdir(exist_ok=True)
            probe = Cgroup(self.root / "probe")
            child = clone.spawn(lambda: 0, cgroup_fd=probe.fd)
        except OSError:
            self.remove()
            return False
        clone.reap(child.pidfd, block=True)
        os.close(child.pidfd)
        try:
            probe.kill()
        except OSError:
            return False
        finally:
            probe.remove()
        return True

    def enable_controllers(self) -> frozenset[str]:
        """Hand the controllers we use down to the user endpoints' cgroups; return those that are there.

        This process moves to a cgroup beside the tree for it: one that hands down controllers holds no process,
        except the topmost. Privilege: write access to the base, a delegated subtree or the topmost cgroup.
        """
        base = self.root.parent
        if not _offered(self.root):
            if not _offered(base) or not _vacate(base):
                return frozenset()
            _hand_down(base)
        _hand_down(self.root)
        return _handed_down(self.root)

    def remove(self) -> bool:
        """Remove the whole empty tree; False if something lives in it. Privilege: write access."""
        return remove_tree(self.root)


def _offered(directory: Path) -> frozenset[str]:
    try:
        return frozenset((directory / "cgroup.controllers").read_text().split()) & _WANTED
    except OSError:
        return frozenset()


def _handed_down(directory: Path) -> frozenset[str]:
    try:
        return frozenset((directory / "cgroup.subtree_control").read_text().split()) & _WANTED
    except OSError:
        return frozenset()


def _vacate(base: Path) -> bool:
    """Leave `base` for a cgroup below it; False if others live there as well, and then we stay.

    With processes in it the kernel would hand down cpu and pids all the same, but turn `base` into a cgroup of
    threads, below which no process can be started. Privilege: write access.
    """
    if _is_topmost(base):
        return True
    beside = base / "mep-daemon"
    try:
        if not _is_alone(base):
            return False
        beside.mkdir(exist_ok=True)
        (beside / "cgroup.procs").write_text("0")
        return not (base / "cgroup.procs").read_text()
    except OSError:
        return False


def _is_topmost(directory: Path) -> bool:
    """Tell whether it is the kernel's first cgroup, which may have processes and hand down controllers."""
    return not (directory / "cgroup.type").exists()


def _is_alone(directory: Path) -> bool:
    """Tell whether this process is the only one in it."""
    return (directory / "cgroup.procs").read_text().split() == [str(os.getpid())]


def _hand_down(directory: Path) -> None:
    """Hand down each controller that `directory` has, one by one: the kernel may refuse one and not others."""
    for name in sorted(_offered(directory) - _handed_down(directory)):
        try:
            (directory / "cgroup.subtree_control").write_text(f"+{name}")
        except OSError:
            continue


def _read(directory_fd: int, name: str) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    except OSError:
        return ""
    with os.fdopen(fd) as file:
        return file.read()


def _write(directory_fd: int, name: str, value: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
