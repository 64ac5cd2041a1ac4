"""The audit log tells of every decision and every task, under the daemon's own record of who it was."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.remote import WAIT_S, by_source, process_id
from support.rigs import MakeEndpoint, SdkEnv
from support.smalldisk import tiny_disk, use_up
from support.wait import until

pytestmark = pytest.mark.timeout(120)

PARSL = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}
"""


def boom() -> None:
    raise RuntimeError("on purpose")


def wait_for(path: str) -> int:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.05)
    return os.getpid()


def forge(count: int) -> int:
    """Runs in the user endpoint: find its socket to the monitor, and tell of others' tasks through it."""
    import os
    import socket

    body = b"\x83\xa1t\xa5tasks\xa6events\x91\x95\xa5ended\xcb" + b"\x41\xd0" + b"\0" * 6 + b"\xa6FORGED\xa1f\xa0"
    body += b"\xa7dropped\x00"
    for fd in range(3, 64):
        try:
            sock = socket.socket(fileno=os.dup(fd))
            if (sock.family, sock.type & 0xF) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                continue
            for _ in range(count):
                sock.send(body)
        except OSError:
            continue
    return os.getuid()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def test_each_step_of_a_task_is_a_line_under_the_monitors_own_facts(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("audited")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        good = executor.submit(process_id)
        pid = good.result(WAIT_S)
        bad = executor.submit(boom)
        assert "on purpose" in str(bad.exception(WAIT_S))
    audit = site.state_dir / "audit.log"
    admitted = next(line for line in lines(audit) if line["event"] == "start-admitted")
    task_log = audit.with_name(f"audit.log.tasks.{admitted['uid']}")
    until(lambda: sum(line["event"] == "task-ended" for line in lines(task_log)) == 2, "both ends are written")
    assert task_log.stat().st_uid == 0
    assert task_log.stat().st_mode & 0o777 == 0o600
    for future, outcome in ((good, "success"), (bad, "RemoteExecutionError")):
        steps = [line for line in lines(task_log) if line["task"] == future.task_id]
        assert [step["event"] for step in steps] == [
            "task-received",
            "task-started",
            "task-running",
            "task-ended",
        ]
        assert steps[2]["worker_pid"] == pid
        assert steps[-1]["outcome"] == outcome
        for step in steps:
            assert step["function"] == steps[0]["function"] != ""
            assert step["time"] >= "20"
            for fact in ("request_id", "identity", "username", "user", "uid", "uep"):
                assert step[fact] == admitted[fact]
            assert step["pid"] == pid


def test_block_job_host_and_pid_of_a_parsl_worker_are_in_the_audit_log(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("blocks", template=PARSL)
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        task = executor.submit(process_id)
        pid = task.result(WAIT_S)

        def ended() -> list[dict[str, Any]]:
            found = [line for log in site.state_dir.glob("audit.log.tasks.*") for line in lines(log)]
            return [line for line in found if line["event"] == "task-ended"]

        [line] = until(ended, "its end is written")
        [uep] = site.user_endpoints()
        assert (line["task"], line["outcome"], line["user"]) == (task.task_id, "success", "alice")
        assert (line["worker_pid"], line["worker_host"], line["block"]) == (pid, os.uname().nodename, "0")
        assert line["pid"] == uep["pid"] != pid
        job = Path("/proc", line["job"])  # the local provider's job is a process, of the user's
        assert job.stat().st_uid == line["uid"]


def test_who_forges_and_floods_reaches_only_their_own_file(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("flooded")
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
        sdk_env("alice@example.org")
        with by_source(site.id) as flooder:
            flood = flooder.submit(forge, 3000)
            begun = time.monotonic()
            executor.submit(process_id).result(WAIT_S)
            assert time.monotonic() - begun < 2.0
            assert site.status()["state"] == "running"
            uid = flood.result(200)
    places = {path.name: path.read_text() for path in site.state_dir.glob("audit.log*")}
    found = [name for name, text in places.items() if "FORGED" in text]
    assert found == [f"audit.log.tasks.{uid}"]
    assert {line["user"] for line in lines(site.state_dir / found[0])} == {"alice"}


def test_who_runs_while_it_cannot_be_written_finishes_and_takes_no_more(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    gate = open_dir / "go"
    with tiny_disk(open_dir / "logs") as place:
        site = endpoint("held", config={"audit_log_path": str(place / "audit.log")})
        sdk_env("alice@example.org")
        with by_source(site.id) as executor:
            running = executor.submit(wait_for, str(gate))
            until(lambda: any("task-started" in p.read_text() for p in place.glob("*.tasks.*")), "it runs")
            ballast = use_up(place, *place.glob("audit.log*"))
            executor.submit(process_id).exception(WAIT_S)
            until(lambda: site.status()["problems"], "status says so")
            assert site.status()["problems"][0].startswith("AUDIT_UNWRITABLE")
            until(lambda: "AUDIT_UNWRITABLE" in site.status()["user_endpoints"][0]["note"], "it takes no more")
            later = executor.submit(process_id)
            gate.touch()
            assert running.result(WAIT_S)
            assert "AUDIT_UNWRITABLE" in str(later.exception(WAIT_S))
            ballast.unlink()
            until(lambda: not site.status()["problems"], "it is written again")
            assert executor.submit(process_id).result(WAIT_S)
        ended = [
            line["task"] for log in place.glob("*.tasks.*") for line in lines(log) if line["event"] == "task-ended"
        ]
        assert running.task_id in ended
        site.stop()
