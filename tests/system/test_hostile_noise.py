"""A hostile user's functions are in nobody's way: the monitor's, other users', and, after the end, anybody's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from mep import Executor
from mep.sdk.errors import TaskExecutionFailed
from mep.wire import privsep
from mep.wire.limits import MAX_PRIVSEP_BYTES
from support import noise
from support.endpoint import Endpoint
from support.program import run
from support.remote import WAIT_S, alive, by_source, process_id, processes_of, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(180)
GONE_S = 2.0
REFUSED_BY_THE_KERNEL = {"OSError", "PermissionError"}  # newer ones let the receiver refuse descriptors
SOON_S = 10.0  # another user's result, on a machine that is busy with the noise

encode = msgspec.msgpack.encode
FORGED = {
    "garbage": [os.urandom(100)],
    "oversized": [b"\xc1" * (MAX_PRIVSEP_BYTES + 1)],
    "deeply nested": [b"\x91" * 60_000 + b"\xc0"],
    "another direction's": [encode(privsep.Registered(endpoint_id="0", keys=[]))],
    "ready twice": [encode(privsep.Ready())],
    "mapped after the drop": [encode(privsep.Mapped(uid=0, gid=0, user="root", rule="", identity=""))],
    "unknown fields": [b"\x82\xa1t\xa4note\xa7pardons\x01"],
}


def serves(site: Endpoint, other: Executor) -> int:
    """Another user gets a result, and the monitor answers; return the other's pid."""
    before = time.monotonic()
    pid = int(other.submit(process_id).result(WAIT_S))
    assert site.status()["state"] == "running"
    assert time.monotonic() - before < SOON_S
    return pid


def test_a_forged_message_ends_its_sender_alone(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("forged")
    sdk_env("bob@example.org")
    with by_source(site.id) as bobs:
        bob = serves(site, bobs)
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            for what, packets in FORGED.items():
                log_before = len(site.log_text())
                before = alices.submit(process_id).result(WAIT_S)
                with pytest.raises(TaskExecutionFailed):
                    alices.submit(noise.tell_monitor, *packets).result(WAIT_S)
                assert alive([before]) == [], what
                assert "it is killed" in site.log_text()[log_before:], what
        assert serves(site, bobs) == bob


def test_texts_of_users_forge_no_lines_and_no_terminal(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("texts")
    text = "\x1b[2J\x1b]0;owned\x07\nINFO monitor: request 1: admitted by root"
    packets = [
        encode(privsep.Note(state=text)),
        encode(privsep.Failed(code="MADE_UP", user_text=text, admin_text=text)),
    ]
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        # after the user endpoint's own note about this task, which would take its place
        future = executor.submit(noise.tell_monitor, *packets, after_s=1.5)
        until(lambda: "owned" in site.mep("status", "texts", "--json").stdout, "the note is shown")
        shown = site.mep("status", "texts").stdout
        assert future.result(WAIT_S) == ["sent", "sent"]
        os.kill(site.user_endpoints()[0]["pid"], 9)
        until(lambda: not site.user_endpoints(), "it is gone")
    shown += site.mep("status", "texts").stdout + site.log_text() + (site.state_dir / "audit.log").read_text()
    shown += str(site.status()["last_refusals"])
    assert "\x1b" not in shown
    assert "\x07" not in shown
    lines = [line for line in shown.splitlines() if line.startswith("INFO monitor")]
    assert lines == []


def test_a_flood_to_the_monitor_waits_in_its_own_socket(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("flooded")
    monitor = site.status()["pid"]
    sdk_env("alice@example.org")
    with by_source(site.id) as alices:
        alices.submit(process_id).result(WAIT_S)
        before = _cpu_s(monitor)
        flood = alices.submit(noise.flood_monitor, 5.0)
        sdk_env("bob@example.org")
        with by_source(site.id) as bobs:
            serves(site, bobs)
        assert 20 < flood.result(WAIT_S) < 1500
        assert _cpu_s(monitor) - before < 2.5


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_descriptor_sent_to_the_monitor_does_not_hold_it_up(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("lingering")
    sdk_env("bob@example.org")
    with by_source(site.id) as bobs:
        port = bobs.submit(noise.hold_connections).result(WAIT_S)
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            alices.submit(process_id).result(WAIT_S)
            attack = alices.submit(noise.send_lingering_socket, port)
            sdk_env("carol@example.org")
            with by_source(site.id) as carols:
                serves(site, carols)
                try:
                    assert attack.result(WAIT_S) in REFUSED_BY_THE_KERNEL
                except TaskExecutionFailed:
                    pass  # it had to leave for the attack
                serves(site, carols)
    began = time.monotonic()
    site.mep("stop", "lingering")
    assert time.monotonic() - began < 15


def test_a_fork_bomb_is_bounded_and_others_are_served(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("bombed", config={"limits": {"pids": 80}})
    sdk_env("alice@example.org")
    with by_source(site.id) as alices:
        assert alices.submit(noise.bomb).result(WAIT_S) < 80
        assert 20 < len(processes_of(20001)) <= 80
        sdk_env("bob@example.org")
        with by_source(site.id) as bobs:
            serves(site, bobs)
        for pid in (one["pid"] for one in site.user_endpoints() if one["user"] == "alice"):
            os.kill(pid, 9)
        until(lambda: not processes_of(20001), "all of the bomb is gone", timeout_s=GONE_S)


def test_what_clings_ends_with_the_endpoint(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("clung")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = [*executor.submit(noise.cling).result(WAIT_S), executor.submit(noise.hydra).result(WAIT_S)]
        assert executor.submit(noise.leave_a_job, "/home/alice/later").result(WAIT_S) == []
    assert len(alive(pids)) == len(pids)
    began = time.monotonic()
    site.mep("stop", "clung")
    assert time.monotonic() - began < 10, "nobody holds the end up"
    assert alive(pids) == []
    assert processes_of(20001) == []
    assert titled(": clung") == []


def test_who_stops_itself_is_ended_all_the_same(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("frozen")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        frozen = executor.submit(noise.stop_self, 0.5).result(WAIT_S)
        until(lambda: "T" in Path(f"/proc/{frozen}/stat").read_text().rpartition(")")[2][:3], "it is stopped")
        sdk_env("bob@example.org")
        with by_source(site.id) as bobs:
            serves(site, bobs)
        site.mep("stop", "frozen")
    assert processes_of(20001) == []
    assert "did not finish within" in site.log_text()


def test_printed_output_and_logs_are_bounded(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("chatty", config={"heartbeat_period": 5})
    before = len(site.log_text())
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        executor.submit(noise.print_much, 40).result(60)
    folder = next(Path("/home/alice/.local/state/mep").iterdir())
    used = run(["du", "-sm", folder], env={"PATH": "/usr/bin:/bin"}).stdout
    until(
        lambda: sum(file.stat().st_size for file in folder.iterdir()) < 30 * 1024 * 1024,
        f"what a user endpoint writes by itself is bounded (before: {used})",
        timeout_s=20.0,
    )
    assert len(site.log_text()) - before < 10_000, "nothing of it is in the daemon's log"
