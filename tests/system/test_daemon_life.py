"""Start, stop, crash: one daemon per endpoint, nothing orphaned, user endpoints outlive their gate."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mep.base.exits import Exit
from mep.base.ids import new_id
from mep.daemon.controlclient import ask
from mep.priv import cgroup
from mep.wire.control import Request
from mep.wire.privsep import Note
from support.endpoint import Endpoint
from support.relay import Relay
from support.remote import WAIT_S, alive, by_source, escape, kill_9, process_id, titled
from support.rewriting import rewriting
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

GONE_S = 2.0  # the promise: after an end for whatever reason, all processes are gone within this time

pytestmark = pytest.mark.timeout(120)

ONE_AT_A_TIME = "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\nheartbeat_period: 5\n"


def cgroups_of(name: str) -> list[Path]:
    base = cgroup.find_base()
    assert base is not None
    return list(base.glob(f"mep-{name}-*"))


def test_a_clean_stop_leaves_no_process_not_even_escaped_ones(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("stopped")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]
    assert len(alive(pids)) == 4
    done = site.mep("stop", "stopped")
    assert done.returncode == 0
    assert alive(pids) == []
    assert titled("stopped") == []
    assert cgroups_of("stopped") == []
    assert site.mep("status", "stopped", check=False).returncode == Exit.NOT_RUNNING
    assert site.program is not None
    assert site.program.process.wait(5) == 0


@pytest.mark.parametrize("victims", [["monitor"], ["monitor", "gate"], ["monitor", "gate", "request"]])
def test_a_killed_daemon_takes_everything_with_it(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, victims: list[str]
) -> None:
    site = endpoint("killed")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]
    guards = titled("mep guard: killed")
    assert len(guards) == 1
    for role in victims:
        for pid in titled(f"mep {role}: killed"):
            kill_9(pid)
    until(lambda: not alive(pids), "all user processes are gone", timeout_s=GONE_S)
    until(lambda: not titled(": killed"), "monitor, gate and guard are gone", timeout_s=GONE_S + 1)
    assert site.program is not None
    site.program.process.wait(5)
    until(lambda: not cgroups_of("killed"), "the cgroups are removed")
    site.start()
    with by_source(site.id) as executor:
        assert executor.submit(process_id).result(WAIT_S) not in pids


def pending(site: Endpoint) -> list[int]:
    """How many tasks each user endpoint has, asked without the time that a command takes."""
    reply = ask(site.state_dir / "control.sock", Request(verb="status"))
    assert reply is not None
    assert reply.status is not None
    return [row.tasks_pending for row in reply.status.user_endpoints]


def nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


def test_a_restart_ends_the_user_endpoints_and_what_waits_runs_after_it(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("restarted", template=ONE_AT_A_TIME)
    sdk_env("alice@example.org")
    before = site.status()
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        pids = [first, *executor.submit(escape).result(WAIT_S)]
        running = executor.submit(nap, 4.0)
        waiting = [executor.submit(process_id) for _ in range(3)]
        until(lambda: pending(site) == [4], "it has them")
        try:
            site.mep("restart", "restarted")
            assert alive(pids) == []
            assert site.program is not None
            assert site.program.process.wait(5) == 0
            after = site.status()
            assert (after["state"], after["endpoint_id"]) == ("running", before["endpoint_id"])
            assert after["pid"] != before["pid"]
            assert running.result(WAIT_S) == 4.0
            assert first not in {future.result(WAIT_S) for future in waiting}
        finally:
            site.mep("stop", "restarted", check=False)
    assert titled(": restarted") == []


def test_what_a_killed_monitor_and_guard_left_is_swept_at_the_next_start(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("swept")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = executor.submit(escape).result(WAIT_S)
    for pid in titled("mep guard: swept") + titled("mep monitor: swept"):
        kill_9(pid)
    assert site.program is not None
    site.program.process.wait(5)
    assert alive(pids), "nobody was left to kill them"
    site.start()
    assert alive(pids) == []


@pytest.fixture
def pam_service() -> Iterator[str]:
    """A service of the sandbox that lets everybody in."""
    service = Path("/etc/pam.d/mep-life")
    service.write_text("".join(f"{kind} required pam_permit.so\n" for kind in ("auth", "account", "session")))
    yield service.name
    service.unlink()


def boxes(name: str) -> list[str]:
    """The cgroups that user endpoints have, or had."""
    return [path.name for tree in cgroups_of(name) for path in tree.glob("uep-*")]


@pytest.mark.parametrize("pam", [False, True], ids=["no PAM", "PAM"])
def test_a_user_endpoint_that_is_killed_takes_its_processes_and_its_cgroup_with_it(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam_service: str, *, pam: bool
) -> None:
    site = endpoint("uepkill", config={"pam": {"enable": pam, "service_name": pam_service}})
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
        pids = executor.submit(escape).result(WAIT_S)
        kill_9(first)
        until(lambda: not alive(pids), "what it had started is gone", timeout_s=GONE_S)
        until(lambda: not boxes("uepkill"), "the cgroup is removed while the daemon lives")
        second = executor.submit(process_id).result(WAIT_S)
    assert second != first
    assert "killed by signal 9 (SIGKILL)" in site.log_text()
    assert len(boxes("uepkill")) == 1
    site.mep("stop-user", "uepkill", "alice")
    until(lambda: not boxes("uepkill"), "the same after a clean end")


def give_away(name: str) -> None:
    """Runs in the user endpoint: give whoever listens at `name` the socket to the monitor; die when told."""
    import os
    import signal
    import socket

    for entry in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{entry}") and "socket:" in os.readlink(f"/proc/self/fd/{entry}"):
            one = socket.socket(fileno=os.dup(int(entry)))
            if one.type == socket.SOCK_SEQPACKET:
                other = socket.socket(socket.AF_UNIX)
                other.connect("\0" + name)
                socket.send_fds(other, [b"x"], [one.fileno()])
                other.recv(1)
                os.kill(os.getpid(), signal.SIGKILL)


def ended(site: Endpoint) -> list[int]:
    """The user endpoints whose end is written down."""
    lines = map(json.loads, (site.state_dir / "audit.log").read_text().splitlines())
    return [line["pid"] for line in lines if line["event"] == "uep-ended"]


_TALKS_ON = """
import socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
while True:
    sock.send(bytes.fromhex(sys.argv[2]))
"""


def test_an_accomplice_who_holds_the_socket_to_the_monitor_and_talks_on_delays_no_end(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("held")
    note = msgspec.msgpack.encode(Note(state="still here"))
    sdk_env("alice@example.org")
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"\0mep-held-{os.getpid()}")
        server.listen()
        server.settimeout(WAIT_S)
        executor = stack.enter_context(by_source(site.id))
        executor.submit(give_away, f"mep-held-{os.getpid()}")
        peer = stack.enter_context(server.accept()[0])
        _, [fd], _, _ = socket.recv_fds(peer, 1, 1)
        command = [sys.executable, "-c", _TALKS_ON, str(fd), note.hex()]
        accomplices = [
            stack.enter_context(subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.DEVNULL))
            for _ in range(3)
        ]
        [uep] = site.user_endpoints()
        peer.send(b"x")
        until(lambda: alive([uep["pid"]]) == [], "alice's process is gone")
        try:
            until(lambda: ended(site) == [uep["pid"]], "its end is told", timeout_s=5)
            assert [one.wait(5) for one in accomplices] == [1, 1, 1], "they hold a socket that leads nowhere"
        finally:
            for one in accomplices:
                one.kill()
            os.close(fd)


def test_the_guard_is_started_again(endpoint: MakeEndpoint) -> None:
    endpoint("guarded")
    [first] = titled("mep guard: guarded")
    kill_9(first)
    until(lambda: [pid for pid in titled("mep guard: guarded") if pid != first], "there is a guard again")


def test_one_daemon_per_endpoint(endpoint: MakeEndpoint) -> None:
    site = endpoint("single")
    done = site.mep("start", "single", check=False)
    assert done.returncode != 0
    assert "ALREADY_RUNNING" in done.stderr
    assert f"pid {site.status()['pid']}" in done.stderr
    assert site.status()["state"] == "running"


def test_detached_start_returns_when_up_and_says_why_not(endpoint: MakeEndpoint) -> None:
    site = endpoint("detached", start=False)
    site.state_dir.mkdir(mode=0o700, exist_ok=True)
    log = site.state_dir / "endpoint.log"
    log.touch(0o600)
    os.truncate(log, 20 * 1024 * 1024)  # as if it had run for long: it is begun anew
    done = site.mep("start", "detached", "--detach")
    try:
        assert b": up\n" in log.read_bytes()
        assert log.stat().st_size < 1024 * 1024 < log.with_name("endpoint.log.1").stat().st_size
        status = site.status()
        assert status["state"] == "running"
        assert status["broker"]["state"] == "connected"
        assert status["endpoint_id"] in done.stdout
        assert os.getsid(status["pid"]) != os.getsid(0)
    finally:
        assert site.mep("stop", "detached").returncode == 0
    assert titled(": detached") == []


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"MEP_CLIENT_SECRET": "wrong"}, "AUTH_REQUIRED", Exit.NO_PERMISSION),
        ({"MEP_RELAY_URL": "http://127.0.0.1:9"}, "not up after 3 s", Exit.TRY_AGAIN),
    ],
)
def test_a_detached_start_that_fails_says_why_and_leaves_nothing(
    endpoint: MakeEndpoint, change: dict[str, str], code: str, status: Exit
) -> None:
    site = endpoint("failing", start=False)
    if "MEP_RELAY_URL" in change:
        config = site.directory / "config.yaml"
        text = [line for line in config.read_text().splitlines() if not line.startswith("relay:")]
        config.write_text("\n".join([*text, f"relay: {change['MEP_RELAY_URL']}", ""]))
    site.extra_env |= change
    done = site.mep("start", "failing", "--detach", "--wait", "3", check=False)
    assert code in done.stderr
    assert done.returncode == status
    until(lambda: not titled(": failing"), "nothing is left")


def test_a_locked_endpoint_goes_away_and_stays_away(endpoint: MakeEndpoint) -> None:
    site = endpoint("locked")
    owner = httpx.BasicAuth(site.extra_env["MEP_CLIENT_ID"], site.extra_env["MEP_CLIENT_SECRET"])
    with httpx.Client(base_url=site.relay.url) as http:
        form = {"grant_type": "client_credentials"}
        token = http.post("/v2/oauth2/token", data=form, auth=owner).json()["access_token"]
        answer = http.post(f"/v3/endpoints/{site.id}/lock", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
    assert site.program is not None
    assert site.program.process.wait(15) == Exit.UNAVAILABLE
    assert "LOCKED" in site.log_text()


def test_an_idle_daemon_wakes_up_only_to_say_that_it_lives(endpoint: MakeEndpoint) -> None:
    site = endpoint("idle", config={"heartbeat_period": 60})
    pids = titled(": idle")
    assert len(pids) == 3
    time.sleep(1.0)

    def switches() -> int:
        total = 0
        for pid in pids:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    before = switches()
    time.sleep(5.0)
    assert switches() - before <= 2, site.tail()


def write_down(begun: str, go: str, done: str) -> None:
    import os
    import time

    with open(begun, "a") as file:
        file.write("x")
    while not os.path.exists(go):
        time.sleep(0.02)
    with open(done, "a") as file:
        file.write("x")


def test_a_running_endpoint_that_is_told_another_ones_id_loses_no_task(
    endpoint: MakeEndpoint, relay: Relay, sdk_env: SdkEnv, open_dir: Path
) -> None:
    lying = threading.Event()
    place = open_dir / "work"
    place.mkdir()
    place.chmod(0o777)
    go = place / "go"

    def lie(method: str, path: str, document: Any) -> Any:
        lies = lying.is_set() and method in ("POST", "PUT") and "endpoints" in path
        return document | {"endpoint_id": new_id()} if lies else document

    with rewriting(relay.url, lie) as url:
        site = endpoint("told", start=False, template=ONE_AT_A_TIME)
        config = site.directory / "config.yaml"
        config.write_text(re.sub(r"(?m)^relay:.*$", f"relay: {url}", config.read_text()))
        site.start()
        sdk_env("alice@example.org")
        with by_source(site.id) as executor:
            futures = [
                executor.submit(write_down, str(place / f"begun{n}"), str(go), str(place / f"done{n}"))
                for n in range(2)
            ]
            until(lambda: list(place.glob("begun*")), "one of them runs")
            lying.set()
            [gate] = titled("mep gate: told")
            kill_9(gate)
            until(lambda: site.status()["state"] in ("stopping", "stopped"), "it cannot go on")
            go.touch()
            until(lambda: not titled(": told"), "it has ended")
            assert site.status()["failure"].startswith("RELAY_REFUSED")
            site.stop()
            lying.clear()
            site.start()
            for future in futures:
                assert future.result(WAIT_S) is None
        assert [(place / f"{what}{n}").read_text() for what in ("begun", "done") for n in range(2)] == ["x"] * 4
        site.stop()
