"""The sandbox that the system tests live in: users inside, an untouched host outside."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sandbox
from support.source import ROOT
from support.wait import until

SANDBOX = [sys.executable, str(ROOT / "tools" / "sandbox.py")]
WATCHED = ("/etc", "/home", "/run", "/var/lib", "/tmp", "/var/tmp", "/dev/shm")


def inside(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, *options, "--", "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def fingerprint() -> dict[str, str]:
    """Return what the host's account files hold and what its folders list."""
    found = {path: ",".join(sorted(os.listdir(path))) for path in WATCHED}
    for name in ("passwd", "group", "shadow", "gshadow", "hosts", "resolv.conf"):
        path = Path("/etc", name)
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    return found


def test_the_host_keeps_its_files_whatever_is_done_inside() -> None:
    before = fingerprint()
    done = inside(
        "set -e; for d in /etc /home /run /var/lib /tmp /var/tmp /dev/shm; do echo x >$d/mep-was-here; done;"
        "echo 'evil:x:0:0::/:/bin/sh' >>/etc/passwd; rm -f /etc/shadow; echo evil >/etc/hosts; mkdir -p /etc/mep/x"
    )
    assert done.returncode == 0, done.stderr
    assert fingerprint() == before


@pytest.mark.parametrize(
    "account", [a for a in sandbox.ACCOUNTS if not a.name.startswith("u")], ids=lambda a: a.name
)
def test_accounts_are_as_listed(account: sandbox.Account) -> None:
    entry = pwd.getpwnam(account.name)
    assert entry.pw_uid == account.uid
    assert entry.pw_shell == account.shell
    home = Path(entry.pw_dir)
    assert home.exists() == (account.home != "missing")
    if account.home == "own":
        assert (home.stat().st_uid, home.stat().st_mode & 0o777) == (account.uid, 0o700)


def test_a_user_can_work_in_the_own_home_and_not_in_anothers() -> None:
    done = inside("su -s /bin/sh alice -c 'touch ~/x && ! ls /home/bob && id -un && id -Gn'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["alice", "alice", "research"]


def test_the_network_is_a_loopback_of_its_own() -> None:
    done = inside("cat /proc/net/dev | grep -c ':'; cat /sys/class/net/lo/flags; getent hosts $(hostname)")
    assert done.stdout.split()[0] == "1"
    assert "127.0.0.1" in done.stdout or "::1" in done.stdout


def test_the_exit_status_is_the_commands() -> None:
    assert inside("exit 7").returncode == 7
    assert inside("kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert subprocess.run([*SANDBOX, "--", "/no/such"], capture_output=True, check=False).returncode == 127


def test_what_is_left_running_is_named_and_ended() -> None:
    done = inside("""sleep 987654 & one=$!
        setsid sleep 987655 & other=$!
        until [ "$(cat /proc/$one/cmdline /proc/$other/cmdline | tr '\\0' ' ')" = "sleep 987654 sleep 987655 " ]
        do :; done""")
    assert "left running" in done.stderr
    assert "987654" in done.stderr
    assert "987655" in done.stderr
    assert not running("98765[45]")


def test_killing_the_sandbox_ends_all_in_it() -> None:
    with subprocess.Popen([*SANDBOX, "--", "/bin/sh", "-c", "setsid sleep 987656; :"]) as process:
        until(lambda: running("987656"), "the sleep runs")
        process.kill()
    until(lambda: not running("987656"), "the sleep is gone", timeout_s=5)


def test_a_signal_reaches_the_command() -> None:
    script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*SANDBOX, "--", "/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "told\n"
        assert process.wait(10) == 5


def test_its_cgroup_goes_with_it_and_with_what_was_made_below() -> None:
    before = set(os.listdir(sandbox.own_cgroup() or "/sys/fs/cgroup"))
    probe = f"{sys.executable} -c 'import sandbox; print(sandbox.own_cgroup())'"
    done = inside(f"cd {ROOT}/tools && G=$({probe}) && echo $G && mkdir -p $G/a/b")
    assert "mep-sandbox-" in done.stdout
    assert not Path(done.stdout.strip()).exists()
    assert set(os.listdir(sandbox.own_cgroup() or "/sys/fs/cgroup")) == before


def test_it_is_quick_enough_to_use_for_everything() -> None:
    started = time.monotonic()
    assert inside("true").returncode == 0
    assert time.monotonic() - started < 3.0


def running(marker: str) -> bool:
    """Tell whether a `sleep` with an argument that matches `marker` runs."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if re.fullmatch(f"sleep {marker} ", command.replace(b"\0", b" ").decode(errors="replace")):
            return True
    return False
