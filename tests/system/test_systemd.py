"""The unit that administrators install, under a real systemd."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from mep.base.exits import Exit
from support.nspawn import Container
from support.relay import Relay, free_port
from support.remote import WAIT_S, alive, by_source, escape, kill_9, process_id, titled
from support.rigs import SdkEnv
from support.unitsite import ALICE, SESSIONS, UnitSite, systemd_machine
from support.wait import until

pytestmark = pytest.mark.timeout(120)
GONE_S = 2.0


@pytest.fixture(scope="module")
def machine(mep: str) -> Iterator[Container]:
    """One boot for all tests of this file."""
    with systemd_machine(mep) as made:
        yield made


def use(site: UnitSite) -> dict[int, str]:
    """Let alice run functions that leave detached processes; return all of hers in the unit."""
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
        executor.submit(escape).result(WAIT_S)
    found = {pid: group for pid, group in site.processes().items() if group.startswith(f"{site.cgroup()}/")}
    assert len(found) == 4
    return found


def killed_it_comes_back_clean(site: UnitSite) -> None:
    """Kill the monitor: all of it is gone in time, the service comes back, serves, and stops as ever."""
    before = site.monitor()
    kill_9(before)
    site.until_gone(within_s=GONE_S)
    until(lambda: site.show("ActiveState") == "active" and site.monitor() != before, "it is up again")
    use(site)
    site.systemctl("stop")
    assert site.processes() == {}


def test_the_unit_verifies(machine: Container) -> None:
    assert machine.run("systemd-analyze", "verify", "mep@login1.service") == ""


def test_a_start_returns_when_the_endpoint_is_registered_and_not_before(machine: Container, relay: Relay) -> None:
    site = UnitSite(machine, relay, "ready")
    port = free_port()
    site.set("relay", f"http://127.0.0.1:{port}")
    site.systemctl("start", "--no-block")
    until(lambda: "relay connecting" in site.show("StatusText"), "it says what it waits for")
    assert site.show("ActiveState") == "activating"
    site.systemctl("stop")
    site.set("relay", relay.url)
    site.systemctl("start")
    assert site.status()["state"] == "running"
    assert site.show("StatusText") == "relay connected, broker connected"
    lines = {line["MESSAGE"]: line["PRIORITY"] for line in site.journal()}
    assert lines[f"monitor: endpoint ready ({site.id}): up"] == "6"
    trusted = [priority for text, priority in lines.items() if "signing key" in text]
    assert trusted == ["4"], "a warning"
    site.systemctl("stop")


def test_a_start_that_waits_too_long_gives_up_and_the_unit_goes_on(machine: Container, relay: Relay) -> None:
    site = UnitSite(machine, relay, "away")
    site.set("relay", f"http://127.0.0.1:{free_port()}")
    site.drop_in("[Service]\nTimeoutStartSec=1s\nRestartSec=10ms\n")
    site.systemctl("start", check=False)
    until(lambda: int(site.show("NRestarts")) >= 1, "it is started again")
    assert "start operation timed out" in str(site.journal())
    site.drop_in("")
    site.set("relay", relay.url)
    until(lambda: site.show("ActiveState") == "active", "it is up once the relay is there")
    site.systemctl("stop")


@pytest.mark.parametrize(
    ("setting", "value", "exit_code", "why"),
    [
        ("min_uidd", 5, Exit.CONFIG, "CONFIG_UNKNOWN_KEY"),
        ("gate_user", "root", Exit.CONFIG, "uid 0"),
    ],
)
def test_a_wrong_configuration_fails_with_its_reason_and_is_not_tried_again(
    machine: Container, relay: Relay, setting: str, value: Any, exit_code: int, why: str
) -> None:
    site = UnitSite(machine, relay, f"wrong-{setting}", **{setting: value})
    site.systemctl("start", check=False)
    assert site.show("ActiveState") == "failed"
    assert site.show("ExecMainStatus") == str(int(exit_code))
    assert site.show("NRestarts") == "0"
    assert why in site.show("StatusText")
    [line] = [line for line in site.journal() if line.get("SYSLOG_IDENTIFIER") == "mep"]
    assert why in line["MESSAGE"]
    assert line["PRIORITY"] == "3"


def test_refused_credentials_fail_with_their_reason_and_are_not_tried_again(
    machine: Container, relay: Relay
) -> None:
    site = UnitSite(machine, relay, "refused", secret="wrong")
    site.systemctl("start", check=False)
    assert site.show("ActiveState") == "failed"
    assert site.show("NRestarts") == "0"
    assert "AUTH_REQUIRED" in site.show("StatusText")


def test_what_fails_at_once_is_tried_five_times_and_then_stays_down(machine: Container, relay: Relay) -> None:
    site = UnitSite(machine, relay, "limited", audit_log_path="/proc/nowhere/audit.log")
    site.drop_in("[Service]\nRestartSec=10ms\n")
    site.systemctl("start", check=False)
    until(lambda: site.show("ActiveState") == "failed", "it stays down", timeout_s=30)
    assert site.show("NRestarts") == "5"
    assert int(site.show("StartLimitBurst")) == 5
    assert site.show("StartLimitIntervalUSec") == "5min"
    assert "Start request repeated too quickly" in str(site.journal())


def test_a_stop_leaves_no_process_and_runs_user_endpoints_in_cgroups_of_the_units_own(
    machine: Container, relay: Relay, sdk_env: SdkEnv
) -> None:
    site = UnitSite(machine, relay, "stop")
    site.systemctl("start")
    sdk_env("alice@example.org")
    found = use(site)
    groups = set(found.values())
    assert len(groups) == 1
    assert all(machine.shares_mounts(pid) for pid in found), "users find what they find after a login"
    assert groups.pop().startswith(f"{site.cgroup()}/mep-stop-")
    site.systemctl("stop")
    assert site.processes() == {}
    assert site.show("Result") == "success"
    assert not machine.path(f"/sys/fs/cgroup{site.cgroup()}").exists()


def test_a_killed_monitor_leaves_nothing_and_comes_back(machine: Container, relay: Relay, sdk_env: SdkEnv) -> None:
    site = UnitSite(machine, relay, "killed")
    site.drop_in("[Service]\nRestartSec=10ms\n")
    site.systemctl("start")
    sdk_env("alice@example.org")
    use(site)
    killed_it_comes_back_clean(site)


def test_what_ignores_the_stop_is_killed_by_the_system(machine: Container, relay: Relay, sdk_env: SdkEnv) -> None:
    site = UnitSite(machine, relay, "stuck")
    site.drop_in("[Service]\nTimeoutStopSec=1s\n")
    site.systemctl("start")
    sdk_env("alice@example.org")
    use(site)
    os.kill(site.monitor(), signal.SIGSTOP)
    site.systemctl("stop", check=False)
    assert site.processes() == {}


def test_a_reload_reads_the_files_again_and_says_what_is_wrong(machine: Container, relay: Relay) -> None:
    site = UnitSite(machine, relay, "reload")
    site.systemctl("start")
    site.systemctl("reload")
    site.set("min_uidd", 5)
    assert "failed" in site.systemctl("reload", check=False)
    assert site.show("ActiveState") == "active"
    told = [line["MESSAGE"] for line in site.journal() if "mep: not in force" in line["MESSAGE"]]
    assert told
    assert "min_uidd" in told[0]
    site.systemctl("stop")


def test_it_says_what_keeps_and_limits_users(machine: Container, relay: Relay) -> None:
    site = UnitSite(machine, relay, "limits", limits={"memory": "1 GiB", "pids": 100})
    site.systemctl("start")
    kept_by = site.status()["kept_by"]
    assert site.cgroup() in kept_by
    assert "rlimit (memory, pids)" in kept_by, "no controller is delegated to this container"
    told = machine.run("mep", "check", site.name)
    assert "gate_user: mep (uid" in told, "systemd-sysusers has made it"
    assert "as a service (mep@NAME), limited by rlimit (memory, pids), nothing (swap, cpu)" in told
    site.systemctl("stop")


# ---- PAM stacks that contain pam_systemd ----


def see_session() -> dict[str, Any]:
    """Runs in the user endpoint."""
    import os

    folder = os.environ["XDG_RUNTIME_DIR"]
    with open("/proc/self/status") as status:
        setuid_works = "NoNewPrivs:\t0" in status.read()
    with open(f"{folder}/by-the-function", "w") as file:
        file.write("here")
    return {"folder": folder, "id": os.environ["XDG_SESSION_ID"], "setuid works": setuid_works}


def run_by_own_manager(*options: str) -> str:
    """Runs in the user endpoint: ask the user's own systemd to run something detached."""
    import subprocess

    command = ["systemd-run", "--user", "-q", *options, "sleep", "27182"]
    asked = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        return asked.communicate(timeout=1)[1]
    except subprocess.TimeoutExpired:
        return "it runs"  # with --scope systemd-run becomes the command


def sessions(site: UnitSite) -> list[str]:
    """Return the ids of all sessions that logind knows."""
    lines = site.machine.run("loginctl", "list-sessions", "--no-legend").splitlines()
    return [line.split()[0] for line in lines]


def noted(site: UnitSite) -> list[str]:
    """Return what PAM's own module has seen of sessions."""
    return site.machine.path(SESSIONS).read_text().splitlines()


@pytest.fixture(scope="module")
def pam_unit(machine: Container, relay: Relay) -> UnitSite:
    """An endpoint whose PAM stack contains pam_systemd."""
    site = UnitSite(machine, relay, "pam", pam="mep")
    site.drop_in("[Unit]\nStartLimitBurst=100\n[Service]\nRestartSec=10ms\n")
    return site


@pytest.fixture
def pam_site(pam_unit: UnitSite, sdk_env: SdkEnv) -> Iterator[UnitSite]:
    """It runs; nobody has a session yet."""
    pam_unit.machine.write(SESSIONS, "")
    pam_unit.systemctl("start")
    sdk_env("alice@example.org")
    yield pam_unit
    pam_unit.systemctl("stop")
    until(lambda: not sessions(pam_unit), "no session is left")


def test_with_pam_systemd_a_clean_stop_leaves_no_process(pam_site: UnitSite) -> None:
    use(pam_site)
    with by_source(pam_site.id) as executor:
        seen = executor.submit(see_session).result(WAIT_S)
    assert seen["folder"] == f"/run/user/{ALICE}"
    assert seen["setuid works"]
    assert pam_site.machine.run("cat", f"/run/user/{ALICE}/by-the-function") == "here"
    assert sessions(pam_site) == [seen["id"]]
    [helper] = pam_site.machine.processes_like("sleep 31415")
    assert pam_site.machine.cgroup_of(helper).endswith(f"/user-{ALICE}.slice/session-{seen['id']}.scope")
    pam_site.systemctl("stop")
    assert pam_site.processes() == {}
    assert pam_site.machine.processes_like("sleep 31415") == []
    assert noted(pam_site) == ["open_session alice", "close_session alice"]
    until(lambda: not sessions(pam_site), "no session is left")
    until(lambda: not pam_site.machine.path(f"/run/user/{ALICE}").exists(), "nor the user's manager")


def test_with_pam_systemd_a_killed_monitor_leaves_no_process(pam_site: UnitSite) -> None:
    use(pam_site)
    before = pam_site.monitor()
    kill_9(before)
    pam_site.until_gone(within_s=GONE_S)
    until(lambda: pam_site.show("ActiveState") == "active" and pam_site.monitor() != before, "it is up again")
    assert noted(pam_site) == ["open_session alice", "close_session alice"]
    assert pam_site.machine.processes_like("sleep 31415") == []
    until(lambda: not sessions(pam_site), "no session is left")


@pytest.mark.parametrize("end", ["killed", "session process killed", "stopped", "session ended by logind"])
def test_with_pam_systemd_the_session_ends_with_the_user_endpoint(pam_site: UnitSite, end: str) -> None:
    login = pam_site.machine.login("alice")
    try:
        [others] = sessions(pam_site)
        found = use(pam_site)
        [own] = set(sessions(pam_site)) - {others}
        if end == "killed":
            kill_9(pam_site.seen_from_here(pam_site.status()["user_endpoints"][0]["pid"]))
        elif end == "session process killed":
            [session] = titled("mep session: pam alice")
            kill_9(session)
        elif end == "stopped":
            pam_site.machine.run("mep", "stop-user", "pam", "alice")
        else:
            pam_site.machine.run("loginctl", "terminate-session", own)
        until(lambda: not alive(list(found)), "all of the user endpoint's processes are gone", timeout_s=GONE_S)
        until(lambda: sessions(pam_site) == [others], "its session is gone, and no other")
        assert pam_site.machine.processes_like("sleep 999"), "nor anything of another session"
        assert pam_site.machine.processes_like("sleep 31415") == []
        if end != "session process killed":
            assert noted(pam_site) == ["open_session alice", "close_session alice"]
    finally:
        pam_site.machine.logout(login)


def test_with_pam_systemd_a_restart_serves_its_users_again(pam_site: UnitSite) -> None:
    first = use(pam_site)
    pam_site.systemctl("restart")
    assert not alive(list(first))
    use(pam_site)
    assert len(sessions(pam_site)) == 1


@pytest.mark.parametrize("kind", [["--scope"], []])
def test_what_a_users_own_manager_runs_ends_with_it(pam_site: UnitSite, kind: list[str]) -> None:
    with by_source(pam_site.id) as executor:
        assert executor.submit(run_by_own_manager, *kind).result(WAIT_S) == ("it runs" if kind else "")
    until(lambda: pam_site.machine.processes_like("sleep 27182"), "it runs")
    pam_site.systemctl("stop")
    pam_site.until_gone(within_s=5)


def test_with_pam_systemd_a_module_that_hangs_does_not_outlive_the_monitor(
    machine: Container, relay: Relay, sdk_env: SdkEnv
) -> None:
    site = UnitSite(machine, relay, "hangs", pam="mep-hangs")
    site.drop_in("[Service]\nRestart=no\n")
    site.systemctl("start")
    sdk_env("alice@example.org")
    executor = by_source(site.id)
    try:
        executor.submit(process_id)
        [module] = until(lambda: machine.processes_like("sleep 16180"), "the module hangs")
        assert titled("mep session: hangs alice")
        kill_9(site.monitor())
        until(lambda: not titled(": hangs"), "the session process is gone", timeout_s=GONE_S)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    kill_9(module)
    for helper in machine.processes_like("sleep 31415"):
        kill_9(helper)
    until(lambda: not sessions(site), "no session is left")


def test_beside_version_1_of_cgroups_it_is_the_same(
    mep: str, relay: Relay, machine: Container, sdk_env: SdkEnv
) -> None:
    with systemd_machine(mep, pure=False, name="mep-hybrid") as hybrid:
        site = UnitSite(hybrid, relay, "hybrid", pam="mep")
        site.drop_in("[Service]\nRestartSec=10ms\n")
        site.systemctl("start")
        assert f"/sys/fs/cgroup/unified{site.cgroup()}" in site.status()["kept_by"]
        sdk_env("alice@example.org")
        use(site)
        killed_it_comes_back_clean(site)
        until(lambda: not sessions(site), "no session is left")
