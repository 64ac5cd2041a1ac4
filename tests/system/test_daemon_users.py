"""A user's function runs as that user: no way back to root, and nothing of others within reach."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.planted import broker_passwords, seal_keys
from support.remote import WAIT_S, by_source
from support.rigs import MakeEndpoint, SdkEnv


def scan(digest: str, length: int) -> int:
    """Count places in this process's memory that hold a text with this digest; the text itself is not sent."""
    import hashlib
    import re

    found = 0
    pattern = re.compile(rb"[A-Za-z0-9_\-+/=]{%d,}" % length)
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            for run in pattern.finditer(data):
                text = run.group()
                for at in range(len(text) - length + 1):
                    if at > 512:
                        break
                    if hashlib.sha256(text[at : at + length]).hexdigest() == digest:
                        found += 1
    return found


def scan_for(digests: list[str]) -> list[int]:
    """Count the places in this process's memory that hold 64 hex digits with each of these digests."""
    import hashlib
    import re
    from collections import Counter

    found: Counter[str] = Counter()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            for run in re.finditer(rb"[0-9a-f]{64,}", data):
                for at in range(min(len(run.group()) - 63, 512)):
                    found[hashlib.sha256(run.group()[at : at + 64]).hexdigest()] += 1
    return [found[digest] for digest in digests]


def look_around() -> dict[str, Any]:
    """Runs in the user endpoint: everything about the process it is in."""
    import os
    import resource
    from pathlib import Path

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    umask = os.umask(0)
    os.umask(umask)
    return {
        "status": {name: value.strip() for name, value in status.items()},
        "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
        "environ": dict(os.environ),
        "initial_environ": Path("/proc/self/environ").read_text(errors="replace"),
        "fds": {
            n: os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if n.isdigit() and os.path.exists(f"/proc/self/fd/{n}")
        },
        "cwd": os.getcwd(),
        "umask": umask,
        "session": os.getsid(0) == os.getpid() or os.getsid(0),
        "pid": os.getpid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "maps": [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "memfd" in line],
    }


def try_to_get_back() -> list[str]:
    """Runs in the user endpoint: every way to root that a process could try by itself."""
    import ctypes
    import os

    done = []
    attempts: dict[str, Any] = {
        "setuid": lambda: os.setuid(0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "setgid": lambda: os.setgid(0),
        "setgroups": lambda: os.setgroups([0]),
        "shadow": lambda: os.open("/etc/shadow", os.O_RDONLY),
        "chroot": lambda: os.chroot("/"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    libc = ctypes.CDLL(None)
    if libc.unshare(0x00020000) == 0:
        done.append("unshare")
    return done


@pytest.mark.timeout(120)
def test_a_function_runs_as_its_user_and_nothing_of_the_daemon_is_left(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint()
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        seen = executor.submit(look_around).result(WAIT_S)
        assert executor.submit(try_to_get_back).result(WAIT_S) == []
    status = seen["status"]
    assert seen["ids"] == [(20001,) * 3, (20001,) * 3, [20001, 20900]]
    assert status["Uid"].split() == ["20001"] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["SigBlk"] == "0" * 16
    assert seen["umask"] == 0o077
    assert seen["cwd"].startswith("/home/alice")
    assert seen["core"] == 0
    assert f"/uep-{site.user_endpoints()[0]['uep_id']}" in seen["cgroup"]
    assert seen["environ"]["HOME"] == "/home/alice"
    assert seen["environ"]["USER"] == seen["environ"]["LOGNAME"] == "alice"
    secret = site.extra_env["MEP_CLIENT_SECRET"]
    shown = json.dumps(seen)
    assert secret not in shown
    assert "MEP_CLIENT" not in shown
    assert not {"PYTHONPATH", "MEP_RELAY_URL"} & seen["environ"].keys(), "the daemon's own"
    assert seen["initial_environ"].strip("\0 ") == "", "the daemon's own environment shows in /proc"
    regular = [path for path in seen["fds"].values() if path.startswith("/")]
    assert all(path.startswith(("/dev/null", "/home/alice", "/memfd:", "/proc")) for path in regular), seen["fds"]


@pytest.mark.timeout(120)
def test_no_secret_of_the_endpoint_is_in_a_user_processes_memory(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint()
    sdk_env("alice@example.org")
    secret = site.extra_env["MEP_CLIENT_SECRET"]
    with by_source(site.id) as executor:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        assert executor.submit(scan, digest, len(secret)).result(60) == 0
    monitor = site.status()["pid"]
    assert secret.encode() not in Path(f"/proc/{monitor}/environ").read_bytes()


@pytest.mark.timeout(120)
def test_a_fork_carries_nothing_of_another_user(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint(template="engine: {type: ThreadPoolEngine}\ndisplay_name: {{ word }}\n")
    secrets: dict[str, list[str]] = {}
    for user in ("bob", "alice"):  # bob's start command, and what came of it, is there before alice's
        sdk_env(f"{user}@example.org")
        option = os.urandom(32).hex()
        with by_source(site.id, user_endpoint_config={"word": option}) as executor:
            executor.submit(look_around).result(WAIT_S)
            [uep] = [one["uep_id"] for one in site.user_endpoints() if one["user"] == user]
            secrets[user] = [option, broker_passwords(site, [uep])[4], seal_keys(site, [uep])[1]]
            digests = [hashlib.sha256(text.encode()).hexdigest() for texts in secrets.values() for text in texts]
            found = executor.submit(scan_for, digests).result(60)
    assert found[:3] == [0, 0, 0], "option, password and key of bob"
    assert all(found[3:]), ("her own are found", found)
