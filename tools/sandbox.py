"""Run a command where throw-away users exist: own mounts, processes and network; the host keeps its files.

    python3 tools/sandbox.py [--host-network] -- COMMAND...

Inside: /etc is a private copy that has the ACCOUNTS too; /home, /run and /var/lib show what the host has in them,
and what is added stays private; /tmp, /var/tmp and /dev/shm are empty, but for what the command names; only
processes of the sandbox are seen, and all die when COMMAND ends; the network is a loopback of its own, so that
every sandbox has its own port 5000. Needs root. Standard library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

#: Their entries stay out of the private view: a name cache would answer from the host's files.
_HIDDEN = {"/run": {"nscd", "unscd", "sssd"}}


@dataclass(frozen=True)
class Account:
    """A throw-away account. `home`: "own" (0700), "missing", or "locked" (owned by root, not writable)."""

    name: str
    uid: int
    groups: tuple[str, ...] = ()
    home: str = "own"
    shell: str = "/bin/sh"


_GROUPS = {"research": 20900, "banned": 20901}
ACCOUNTS = (
    Account("mep", 871, home="missing", shell="/usr/sbin/nologin"),  # the gate's
    Account("lowuid", 500),
    Account("alice", 20001, ("research",)),
    Account("bob", 20002, ("research",)),
    Account("carol", 20003),
    Account("dave", 20004, ("banned",)),
    Account("nohome", 20005, home="missing"),
    Account("lockedhome", 20006, home="locked"),
    Account("nologin", 20007, shell="/usr/sbin/nologin"),
    *(Account(f"u{number:03}", 21000 + number) for number in range(1, 201)),  # a crowd
)


def why_not() -> str:
    """Return why this machine allows no sandbox, or ""."""
    if os.geteuid() != 0:
        return "a private mount namespace needs root"
    tried = subprocess.run(
        [sys.executable, __file__, "--", "/bin/true"], capture_output=True, text=True, check=False
    )
    return "" if tried.returncode == 0 else f"no private mount namespace here ({tried.stderr.strip()[-300:]})"


def main(argv: list[str]) -> int:
    """Run the command in a new sandbox; return its exit status (128 + the signal that ended it)."""
    options, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    if os.geteuid() != 0:
        print("sandbox: needs root", file=sys.stderr)
        return 1
    try:
        _call("unshare", _libc.unshare(_CLONE_NEWNS))
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        build(_named_paths(command))
        if "--host-network" not in options:
            _call("unshare", _libc.unshare(_CLONE_NEWNET))
            _raise_loopback()
        _call("unshare", _libc.unshare(_CLONE_NEWPID))  # last: the next child is process 1, whatever it is
    except OSError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    group = _make_cgroup()
    init = os.fork()  # process 1: with it, all end
    if init == 0:
        _never_return(lambda: _be_init(command, group))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(init, received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the command too, which cleans up
    status = _status(os.waitpid(init, 0)[1])
    if group is not None:
        _remove_cgroup(group)
    return status


def build(kept: set[str]) -> None:
    """Lay the private folders over this mount namespace and make the accounts. `kept`: paths that stay visible."""
    stage = tempfile.mkdtemp(prefix="mep-sandbox-", dir="/dev")
    try:
        for target in ("/home", "/run", "/var/lib"):
            _shadow(target, stage)
        for target in ("/tmp", "/var/tmp", "/dev/shm"):
            _shadow(target, stage, mode=0o1777, only=kept)
        _mount("tmpfs", stage, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=64m")
        subprocess.run(["/bin/cp", "-a", "/etc/.", stage], check=True)
        _mount(stage, "/etc", "", _MS_BIND)
        _call("umount", _libc.umount2(stage.encode(), 0))
    finally:
        os.rmdir(stage)
    _write_accounts()
    Path("/etc/resolv.conf").write_text("")  # no name service is reachable: say so at once
    hosts = f"127.0.0.1 localhost {socket.gethostname()}\n::1 localhost ip6-localhost ip6-loopback\n"
    Path("/etc/hosts").write_text(hosts)
    for account in ACCOUNTS:
        _make_home(account)
    Path("/home/root").mkdir(mode=0o700, exist_ok=True)


# ---- inside -------------------------------------------------------------------------------------------------


def _named_paths(command: list[str]) -> set[str]:
    """Return the absolute paths that the command, its environment and its folder name."""
    words = [*command, *os.environ.values(), os.getcwd(), __file__, sys.executable]
    parts = (part for word in words for part in re.split("[:=]", word))
    return {os.path.realpath(part) for part in parts if part.startswith("/")}


def _shadow(target: str, stage: str, *, mode: int = 0o755, only: set[str] | None = None) -> None:
    """Show the entries of `target` on a private tmpfs: what they contain is the host's, new ones are ours.

    With `only`, just those entries that one of these paths is, or is below.
    """
    _mount("tmpfs", stage, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode={mode:o}")
    hidden = _HIDDEN.get(target, set()) | ({account.name for account in ACCOUNTS} if target == "/home" else set())
    for entry in os.scandir(target):
        place = os.path.join(stage, entry.name)
        if entry.name in hidden or (only is not None and not any(_is_below(path, entry.path) for path in only)):
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
            continue
        if entry.is_dir():
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600))
        _mount(entry.path, place, "", _MS_BIND | _MS_REC)
    _mount(stage, target, "", _MS_BIND | _MS_REC)
    _call("umount", _libc.umount2(stage.encode(), 2))  # lazily: it has mounts below, which live on in the target


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _write_accounts() -> None:
    names = {account.name for account in ACCOUNTS}
    members = {group: [a.name for a in ACCOUNTS if group in a.groups] for group in _GROUPS}
    passwd = [f"{a.name}:x:{a.uid}:{a.uid}:throw-away:{home_of(a)}:{a.shell}" for a in ACCOUNTS]
    groups = [f"{a.name}:x:{a.uid}:" for a in ACCOUNTS]
    groups += [f"{name}:x:{gid}:{','.join(members[name])}" for name, gid in _GROUPS.items()]
    _append("/etc/passwd", passwd, names)
    _append("/etc/shadow", [f"{name}:*:19000:0:99999:7:::" for name in names], names)
    _append("/etc/group", groups, names | set(_GROUPS))
    _append("/etc/gshadow", [f"{name}:!::" for name in names | set(_GROUPS)], names | set(_GROUPS))


def home_of(account: Account) -> str:
    """Return where the account's home is (or would be)."""
    return "/nonexistent" if account.name == "mep" else f"/home/{account.name}"


def _append(path: str, lines: list[str], names: set[str]) -> None:
    """Add `lines` to an account file; entries of the host with one of `names` give way."""
    file = Path(path)
    kept = [line for line in file.read_text().splitlines() if line.partition(":")[0] not in names]
    file.write_text("\n".join([*kept, *lines]) + "\n")


def _make_home(account: Account) -> None:
    if account.home == "missing":
        return
    home = home_of(account)
    shutil.rmtree(home, ignore_errors=True)
    os.mkdir(home, 0o700)
    if account.home == "locked":
        os.chmod(home, 0o555)
    else:
        os.chown(home, account.uid, account.uid)


def own_cgroup() -> Path | None:
    """Return the folder of this process's cgroup (version 2), or None where there is none."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return Path(found[0], own[0].lstrip("/")) if found and own else None


def _make_cgroup() -> Path | None:
    """Make a cgroup for the sandbox: what is made below it is the sandbox's, and goes with it."""
    parent = own_cgroup()
    if parent is None:
        return None
    group = parent / f"mep-sandbox-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:  # not ours to change: the command runs in the caller's
        return None
    return group


def _remove_cgroup(group: Path) -> None:
    """Remove it and all below; its processes have ended with process 1, some may still be leaving."""
    for _ in range(200):
        for folder, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                break
        if not group.exists():
            return
        time.sleep(0.01)


def _be_init(command: list[str], group: Path | None) -> int:
    """Be process 1: run the command, reap whatever is orphaned, end with the command's status."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if group is not None:
        try:
            (group / "cgroup.procs").write_text("0")
        except OSError as error:  # the tree's owner forbids it: the command stays in the caller's
            print(f"sandbox: no cgroup of its own: {error}", file=sys.stderr)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        _never_return(lambda: _exec(command))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    while True:
        pid, status = os.wait()
        if pid == child:
            _tell_leftovers()
            return _status(status)


def _exec(command: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= {"HOME": "/home/root", "MEP_SANDBOX": "1"}
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"sandbox: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _tell_leftovers() -> None:
    """Name the processes that the command left behind; they end with the sandbox."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            continue
        name, _, state = stat.partition("(")[2].rpartition(") ")
        if not state.startswith("Z"):  # one that is becoming another program has no title for a moment
            print(f"sandbox: left running: {pid} {title[:200] or name}", file=sys.stderr)


def _never_return(body: Callable[[], int]) -> None:
    """Run `body` in a forked child and leave with its status: the caller's code is not the child's."""
    status = 70
    try:
        status = body()
    except BaseException as error:  # noqa: BLE001 - reported, then the child ends
        print(f"sandbox: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _raise_loopback() -> None:
    """Bring `lo` up in the new network namespace (SIOCSIFFLAGS, IFF_UP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1))


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _call(f"mount {source} on {target}", result)


def _call(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
