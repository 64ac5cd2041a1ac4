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
from support.remote import WAIT_S, by_source, escape, kill_9, process_id
from support.rigs import SdkEnv
from support.unitsite import UnitSite, systemd_machine
from support.wait import until

pytestmark = pytest.mark.timeout(120)
GONE_S = 2.0


@pytest.fixture(scope="module")
def machine(mep: str) -> Iterator[Container]:
    """One boot for all tests of this file."""
    with systemd_machine(mep) as made:
        yield made


def use(site: UnitSite) -> dict[int, str]:
    """Let alice run functions that leave detached processes; return all of hers."""
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
        executor.submit(escape).result(WAIT_S)
    found = site.processes()
    assert len(found) == 4
    return found


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
    groups = set(use(site).values())
    assert len(groups) == 1
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
    before = site.monitor()
    kill_9(before)
    site.until_gone(within_s=GONE_S)
    until(lambda: site.show("ActiveState") == "active" and site.monitor() != before, "it is up again")
    use(site)
    site.systemctl("stop")
    assert site.processes() == {}


def test_what_ignores_the_stop_is_killed_by_the_system(machine: Container, relay: Relay, sdk_env: SdkEnv) -> None:
    site = UnitSite(machine, relay, "stuck")
    site.drop_in("[Service]\nTimeoutStopSec=1s\nExecStop=\n")
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
    told = machine.run("systemd-run", "-q", "--pipe", "--wait", "/usr/local/bin/mep", "check", site.name)
    assert "rlimits" in told
    site.systemctl("stop")
