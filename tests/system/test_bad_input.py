"""What can be wrong around an endpoint: each has its code and words, `mep status` shows it, nothing is lost, and
no log has a traceback."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.base.codes import Code
from mep.base.exits import Exit
from mep.base.ids import new_id
from support.endpoint import Endpoint
from support.program import Program, mep
from support.relay import Relay, free_port
from support.remote import WAIT_S, alive, assert_refused, by_source, escape, process_id, refusal, titled
from support.rewriting import rewriting
from support.rigs import MakeEndpoint, SdkEnv
from support.shiftedclock import shifted
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB = "alice@example.org", "bob@example.org"
QUICK = "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\nheartbeat_period: 1\n# {{ n | default(0) }}\n"


@pytest.fixture(autouse=True)
def no_traceback(relay: Relay, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a person can cause is no reason for a traceback, in no log."""
    folder: Path = request.getfixturevalue("open_dir")
    yield
    logs = [*folder.rglob("*.log"), relay.data_dir.parent / f"{relay.data_dir.name}.log"]
    for log in logs:
        text = log.read_text(errors="replace")
        assert "Traceback" not in text, f"{log}:\n{text[-6000:]}"


@pytest.fixture
def small_disk(open_dir: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = open_dir / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, *, up_to: Path | None = None) -> Path:
    """Leave no byte; none in the last block of `up_to` either."""
    ballast = place / "ballast"
    if up_to is not None:
        with up_to.open("ab") as file:
            file.write(b"\n" * (-up_to.stat().st_size % 4096))
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


def works(site: Endpoint, **options: Any) -> int:
    with by_source(site.id, user_endpoint_config=options) as executor:
        return int(executor.submit(process_id).result(WAIT_S))


def printed(site: Endpoint) -> str:
    """What `mep status` shows to a person."""
    return str(site.mep("status", site.name, check=False).stdout)


# ---- the disk is full ----


def test_an_audit_log_that_cannot_be_written_stops_new_work_until_it_can(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, small_disk: Path
) -> None:
    site = endpoint(config={"audit_log_path": str(small_disk / "audit.log")})
    sdk_env(ALICE)
    works(site)
    ballast = fill(small_disk, up_to=small_disk / "audit.log")
    text = refusal(site, user_endpoint_config={"n": 1})
    assert_refused(text, Code.AUDIT_UNWRITABLE)
    assert str(small_disk) not in text
    assert site.status()["problems"][0].startswith("AUDIT_UNWRITABLE")
    assert f"takes no work: AUDIT_UNWRITABLE: The audit log {small_disk}/audit.log" in printed(site)
    assert "No space left" in printed(site)
    # the one that runs takes no more work either: it leaves, so that whoever asks for it hears why
    assert_refused(refusal(site, user_endpoint_config={}), Code.AUDIT_UNWRITABLE)
    ballast.unlink()
    assert site.status()["problems"] == []
    works(site, n=1)


def test_an_audit_log_that_cannot_be_made_keeps_the_endpoint_from_starting(
    endpoint: MakeEndpoint, open_dir: Path
) -> None:
    site = endpoint(start=False, config={"audit_log_path": str(open_dir / "no" / "audit.log")})
    done = site.mep("start", site.name, check=False)
    assert done.returncode != 0
    assert "AUDIT_UNWRITABLE" in done.stderr
    assert str(open_dir / "no" / "audit.log") in done.stderr
    assert site.status()["failure"].startswith("AUDIT_UNWRITABLE")
    assert f"AUDIT_UNWRITABLE: The audit log {open_dir}/no/audit.log" in printed(site)
    assert "Traceback" not in done.stderr
    until(lambda: not titled(f": {site.name}"), "nothing is left")


def test_a_command_that_cannot_be_remembered_is_not_obeyed(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, small_disk: Path, open_dir: Path
) -> None:
    site = endpoint(start=False, config={"audit_log_path": str(open_dir / "audit.log")})
    site.state_dir.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", small_disk, site.state_dir], check=True)
    try:
        site.start()
        sdk_env(ALICE)
        first = works(site)
        ballast = fill(small_disk, up_to=site.state_dir / "replays")
        text = refusal(site, user_endpoint_config={"n": 1})
        assert text.startswith("SPAWN_FAILED")
        assert "No space left" in site.status()["last_refusals"][-1]["text"]
        assert works(site) == first
        ballast.unlink()
        works(site, n=1)
        site.stop()
    finally:
        subprocess.run(["umount", "-l", site.state_dir], check=True)


def test_a_full_home_loses_no_task(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint(template=QUICK)
    home = Path("/home/alice")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,uid=20001,mode=0700", "tmpfs", home], check=True)
    try:
        sdk_env(ALICE)
        with by_source(site.id) as executor:
            first = executor.submit(process_id).result(WAIT_S)
            ballast = fill(home)
            waiting = executor.submit(process_id)
            until(lambda: waiting.done() or "JOURNAL_FULL" in printed(site), "mep status says why nothing moves")
            ballast.unlink()
            assert waiting.result(WAIT_S) == first
            site.mep("stop-user", site.name, "alice")
            until(lambda: not site.user_endpoints(), "it is gone")
            ballast = fill(home)
            text = refusal(site, user_endpoint_config={"n": 1})
            assert text.startswith(("HOME_NOT_WRITABLE", "JOURNAL_FULL")), text
            assert "/home/alice" in text
            ballast.unlink()
            works(site, n=1)
    finally:
        site.stop()
        subprocess.run(["umount", "-l", home], check=True)


# ---- folders ----


def test_a_cgroup_tree_that_cannot_be_written_gives_session_processes_and_no_orphan(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("rocg", start=False)
    read_only = (
        "mount --make-rprivate / && for m in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do "
        'mount -o remount,bind,ro "$m"; done && exec "$@"'
    )
    command = mep("--config-dir", site.config_dir, "start", site.name)
    site.program = Program.start(
        ["/usr/bin/unshare", "-m", "/bin/sh", "-c", read_only, "sh", *command],
        log=site.config_dir / f"{site.name}.log",
        env=site.environment(),
    )
    until(site._is_up, "the endpoint is up", timeout_s=30.0)
    assert "session processes (no writable cgroup v2)" in printed(site)
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        pids = [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]
    site.mep("stop", site.name)
    assert alive(pids) == []


@pytest.mark.parametrize("who", ["carol", ""])
def test_a_template_folder_that_becomes_unreadable_changes_nothing_and_is_shown(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """As an ordinary user it is closed; for root, who may read all, it is gone."""
    folder = open_dir / "templates"
    folder.mkdir()
    template = folder / "user_config_template.yaml.j2"
    template.write_text(QUICK)
    if who:
        for path in (folder, template):
            shutil.chown(path, who, who)
    site = endpoint("tpl", user=who, config={"user_config_template_path": str(template)}, start=False)
    if who:
        shutil.chown(site.directory / "config.yaml", who, who)
    site.start()
    if who:
        folder.chmod(0)
    else:
        folder.rename(open_dir / "away")
    site.mep("reload", site.name, check=False)
    [broken] = until(lambda: site.status()["broken_files"], "status tells of it")
    assert "CONFIG_UNREADABLE" in broken["error"]
    assert str(template) in broken["error"]
    assert "not in force" in printed(site)
    if not who:
        sdk_env(ALICE)
        works(site)
    site.stop()
    for command in ("start", "check"):
        done = site.mep(command, site.name, check=False)
        text = done.stderr + done.stdout
        assert done.returncode != 0
        assert "CONFIG_UNREADABLE" in text, text
        assert str(template) in text
        assert "Traceback" not in text


# ---- clocks ----


@pytest.mark.parametrize("ahead_s", [600, -600])
def test_a_clock_ten_minutes_off_is_named_and_refuses(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, ahead_s: int
) -> None:
    site = endpoint(start=False)
    site.extra_env |= shifted(open_dir / "clock", ahead_s)
    site.start()
    sdk_env(ALICE)
    text = refusal(site)
    assert text.startswith("COMMAND_STALE"), text
    assert "clock" in text
    assert site.status()["last_refusals"][-1]["code"] == "COMMAND_STALE"
    assert "COMMAND_STALE" in printed(site)
    assert site.user_endpoints() == []


@pytest.mark.parametrize("ahead_s", [150, -150])
def test_a_clock_that_is_off_by_less_than_three_minutes_does_not_matter(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, ahead_s: int
) -> None:
    site = endpoint(start=False)
    site.extra_env |= shifted(open_dir / "clock", ahead_s)
    site.start()
    sdk_env(ALICE)
    works(site)


# ---- who is who ----


def test_a_relay_that_answers_for_another_endpoint_ends_the_daemon_and_changes_nothing(
    endpoint: MakeEndpoint, relay: Relay
) -> None:
    site = endpoint("mine")
    mine = site.id
    site.stop()
    another = new_id()

    def lie(method: str, path: str, document: Any) -> Any:
        return (
            document | {"endpoint_id": another} if method in ("POST", "PUT") and "endpoints" in path else document
        )

    with rewriting(relay.url, lie) as url:
        config = site.directory / "config.yaml"
        good = config.read_text()
        config.write_text(re.sub(r"(?m)^relay:.*$", f"relay: {url}", good))
        done = site.mep("start", site.name, "--detach", check=False)
        config.write_text(good)
    assert done.returncode == Exit.UNAVAILABLE
    assert "RELAY_REFUSED" in done.stderr
    assert another in done.stderr
    assert mine in done.stderr
    assert "Traceback" not in done.stderr
    until(lambda: not titled(": mine"), "nothing is left")
    assert site.id == mine
    assert site.status()["state"] == "stopped"
    assert ": RELAY_REFUSED: " in printed(site)
    assert another in printed(site)
    site.start()
    assert site.id == mine
    site.stop()
    assert "RELAY_REFUSED" not in printed(site)


def test_a_lock_left_by_a_killed_daemon_is_no_obstacle_and_a_failed_second_start_harms_nobody(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint("one")
    sdk_env(ALICE)
    first = works(site)
    for options in ((), ("--detach",)):
        done = site.mep("start", site.name, *options, check=False)
        assert done.returncode != 0
        assert "ALREADY_RUNNING" in done.stderr
        assert f"pid {site.status()['pid']}" in done.stderr
    assert works(site) == first
    assert site.program is not None
    site.program.kill()
    assert "one daemon" not in printed(site)
    site.start()
    assert works(site) != first


# ---- services away ----


def test_an_endpoint_waits_for_a_relay_that_is_away_and_says_since_when(
    endpoint: MakeEndpoint, relay: Relay, sdk_env: SdkEnv
) -> None:
    site = endpoint("patient", start=False)
    relay.stop()
    began = time.time()
    try:
        site.start(wait=False)
        until(lambda: site.status().get("relay"), "status tells of the relay")
        service = site.status()["relay"]
        assert service["state"] == "connecting"
        assert began - 1 <= service["since"] <= time.time()
        assert "RELAY" in service["detail"] or "refused" in service["detail"].lower()
        assert "relay: connecting since 20" in printed(site)
        time.sleep(2.0)  # several attempts
        assert site.status()["relay"]["since"] == service["since"]
    finally:
        relay.start()
    until(site._is_up, "it is up by itself", timeout_s=40.0)
    lines = [line for line in site.log_text().splitlines() if " relay con" in line]
    assert len(lines) == 2, "one line for each change"
    sdk_env(ALICE)
    works(site)


def test_a_broker_that_is_away_is_told_once_and_shown_with_its_time(endpoint: MakeEndpoint) -> None:
    site = endpoint("brokerless", start=False, config={"amqp_port": free_port()})
    site.start(wait=False)
    until(lambda: (site.status().get("broker") or {}).get("state") == "connecting", "status tells of the broker")
    first = site.status()["broker"]
    assert site.status()["relay"]["state"] == "connected"
    time.sleep(2.0)  # several attempts
    assert site.status()["broker"]["since"] == first["since"]
    assert site.status()["state"] == "starting"
    assert "broker: connecting since 20" in printed(site)
    assert sum(": broker " in line for line in site.log_text().splitlines()) == 1, site.log_text()


def test_a_wrong_secret_is_refused_once_and_not_tried_for_ever(endpoint: MakeEndpoint) -> None:
    site = endpoint("nosecret", start=False)
    site.extra_env |= {"MEP_CLIENT_SECRET": "wrong"}
    site.start(wait=False)
    assert site.program is not None
    assert site.program.process.wait(30) != 0
    assert site.log_text().count("AUTH_REQUIRED") >= 1
    assert "mep relay client" in site.log_text()
