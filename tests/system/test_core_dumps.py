"""A process that holds secrets leaves none of its memory behind when it crashes, wherever the host sends dumps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mep.relay.brokeraddress import BrokerAddress
from support.broker import temporary_vhost
from support.endpoint import Endpoint
from support.program import Program, clean_environment, mep, run
from support.relay import Relay
from support.remote import titled
from support.rigs import MakeEndpoint
from support.wait import until

pytestmark = pytest.mark.timeout(120)

_DUMPED = 0x80  # in a wait status: WCOREDUMP

#: A root folder of the daemon's own, where a file can be written: dumps go to where a process is, which is there.
_IN_A_ROOT_OF_ITS_OWN = """
mount --make-rprivate / && mount -t tmpfs -o mode=0755 tmpfs "$0" || exit 1
for entry in /*; do
    if [ -L "$entry" ]; then cp -a "$entry" "$0$entry"
    elif [ -d "$entry" ]; then mkdir "$0$entry" && mount --rbind "$entry" "$0$entry" || exit 1
    fi
done
exec chroot "$0" "$@"
"""
#: A program without the privilege that would let it look into all others.
_TRACES_NOBODY = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]

#: As the account itself: to raise limits of others' is a privilege that a container need not have.
_RAISE = """
import os, resource, sys
uid = int(sys.argv[2])
os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
_, hard = resource.prlimit(int(sys.argv[1]), resource.RLIMIT_CORE)
resource.prlimit(int(sys.argv[1]), resource.RLIMIT_CORE, (hard, hard))
"""
_CRASH = """
import os, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
uid = int(sys.argv[2])
os.chroot(sys.argv[1]); os.chdir("/")
os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
import ctypes
ctypes.CDLL(None).prctl(4, ctypes.c_ulong(1), 0, 0, 0)
os.abort()
"""


def others_are_dumped(root: Path, uid: int) -> bool:
    """Tell whether the crash of any other process of that account, there, leaves a dump; it does not stay."""
    before = files_in(root)
    crashed = subprocess.Popen([sys.executable, "-c", _CRASH, str(root), str(uid)])
    ended = os.waitid(os.P_PID, crashed.pid, os.WEXITED | os.WNOWAIT)
    crashed.wait()
    remove_new(root, before)
    return ended is not None and ended.si_code == os.CLD_DUMPED


def files_in(root: Path) -> set[str]:
    return {name for name in os.listdir(root) if name.startswith("core")}


def remove_new(root: Path, before: set[str]) -> None:
    for name in files_in(root) - before:
        (root / name).unlink()


def crash(pid: int) -> int:
    """Let it crash, as if the limit for dumps did not count (it does not where they go into a pipe); return the
    status that its parent, which is stopped or this process, will see."""
    run([sys.executable, "-c", _RAISE, str(pid), str(real_uid(pid))], env=clean_environment())
    os.kill(pid, signal.SIGABRT)
    until(lambda: stat(pid)[0] == "Z", f"{pid} has crashed", timeout_s=30.0)
    return int(stat(pid)[-1])


def stat(pid: int) -> list[str]:
    """Return the fields of its stat file from its state on; the last is its wait status."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextmanager
def in_a_root_of_its_own(site: Endpoint, root: Path) -> Iterator[int]:
    """Run the endpoint there; yields the monitor's pid."""
    root.mkdir()
    start = mep("--config-dir", site.config_dir, "start", site.name)
    site.program = Program.start(
        ["unshare", "-m", "/bin/sh", "-c", _IN_A_ROOT_OF_ITS_OWN, root, *start],
        log=site.config_dir / f"{site.name}.log",
        env=site.environment(),
    )
    until(
        lambda: site.status()["state"] == "running" and titled(f"mep gate: {site.name}"), "it is up", timeout_s=30
    )
    yield site.program.pid


def test_a_crash_of_gate_or_monitor_leaves_no_dump(endpoint: MakeEndpoint, open_dir: Path) -> None:
    site = endpoint("crashing", start=False)
    with in_a_root_of_its_own(site, open_dir / "root") as monitor:
        root = Path(f"/proc/{monitor}/root")
        root.chmod(0o1777)  # now that the daemon has looked at it: whoever is there may leave a dump
        [gate] = titled("mep gate: crashing")
        if not others_are_dumped(root, real_uid(gate)):
            pytest.skip("this host leaves no dump of any process")
        os.kill(monitor, signal.SIGSTOP)  # so that it does not reap what we look at
        try:
            statuses = {"gate": crash(gate)}
        finally:
            os.kill(monitor, signal.SIGCONT)
        until(lambda: titled("mep gate: crashing") not in ([], [gate]), "there is a new gate", timeout_s=30.0)
        statuses["monitor"] = crash(monitor)
        assert {name: status & _DUMPED for name, status in statuses.items()} == {"gate": 0, "monitor": 0}
        assert {status & 0x7F for status in statuses.values()} == {signal.SIGABRT}


def real_uid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [uid] = [int(line.split()[1]) for line in lines if line.startswith("Uid:")]
    return uid


def test_a_crash_of_the_relay_leaves_no_dump(broker_node: BrokerAddress, open_dir: Path) -> None:
    root = Path("/")
    before = files_in(root)
    if not others_are_dumped(root, 0):
        pytest.skip("this host leaves no dump of any process")
    with temporary_vhost(broker_node) as broker:
        relay = Relay(open_dir / "relay", broker).start()
        assert relay.program is not None
        status = crash(relay.program.pid)
        relay.stop()
        remove_new(root, before)
        assert (status & _DUMPED, status & 0x7F) == (0, signal.SIGABRT)


def test_not_even_its_own_account_looks_into_a_process_that_holds_secrets(endpoint: MakeEndpoint) -> None:
    """What cannot be dumped cannot be read or traced either, but by who may trace everything."""
    site = endpoint("closed", start=False)
    monitor = Program.start(
        [*_TRACES_NOBODY, *mep("--config-dir", site.config_dir, "start", site.name)],
        log=site.config_dir / f"{site.name}.log",
        env=site.environment(),
    )
    site.program = monitor
    until(lambda: titled("mep gate: closed") and titled("mep guard: closed"), "it is up", timeout_s=30.0)
    [gate], [guard] = titled("mep gate: closed"), titled("mep guard: closed")
    whose: dict[str, int | str] = {"monitor": monitor.pid, "guard": guard, "self": "self"}
    assert {name: can_be_read(pid) for name, pid in whose.items()} == {
        "monitor": False,
        "guard": False,
        "self": True,
    }
    until(lambda: Path(f"/proc/{gate}/environ").stat().st_uid == 0, "nor the gate, by those of its account")


def can_be_read(pid: int | str) -> bool:
    """Tell whether a process of root's, which may not trace everything, reads its memory."""
    program = [sys.executable, "-c", f"open('/proc/{pid}/mem', 'rb')"]
    done = subprocess.run([*_TRACES_NOBODY, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
    return done.returncode == 0
