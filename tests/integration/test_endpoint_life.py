"""How a user endpoint begins and ends: failures with a code, idling, signals, and nothing lost over a kill -9."""

from __future__ import annotations

import os
import signal
import time
from importlib.resources import files
from pathlib import Path

import pytest

from mep.base.exits import Exit
from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.config.user_endpoint import load_user_endpoint_config
from mep.template import ReservedVariables, render
from mep.wire.privsep import Failed, Note, Quit, Refresh
from support.uep import Site, payload_fd, task_buffer, user_endpoint, value_of
from support.wait import until

THREADS = "engine:\n  type: ThreadPoolEngine\n  max_workers: 1\n"
PROCESSES = "engine:\n  type: ProcessPoolEngine\n  max_workers: 1\n"
IDLE = "idle_heartbeats_soft: 1\nheartbeat_period: 5\n"


def _blocks(flag: str) -> int:
    """Say that it runs, then wait for the file `flag`.go."""
    import os
    import time

    with open(flag, "a") as file:
        file.write("x")
    while not os.path.exists(flag + ".go"):
        time.sleep(0.01)
    return 7


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()


# ---- failures before it is up ----


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        ("engine:\n  type: NoSuchEngine\n", "ENGINE_UNKNOWN", "ThreadPoolEngine"),
        ("engine:\n  type: ThreadPoolEngine\n  max_worker: 3\n", "CONFIG_UNKNOWN_KEY", "max_workers"),
        ("engine: {{ account }}\n", "TEMPLATE_UNDEFINED", "account"),
        (THREADS + "endpoint_setup: 'echo no license >&2; exit 3'\n", "CONFIG_INVALID", "no license"),
    ],
)
def test_what_the_template_gets_wrong_is_told_with_a_code(
    place: Site, tmp_path: Path, template: str, code: str, says: str
) -> None:
    with user_endpoint(place, tmp_path, template, expect_ready=False) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == code
        assert says in heard.user_text
        assert "Traceback" not in heard.user_text + heard.admin_text
        assert running.wait() == Exit.DATA


def test_a_high_assurance_endpoint_encrypts(place: Site, tmp_path: Path) -> None:
    template = "engine:\n  type: GlobusComputeEngine\n  encrypted: false\n"
    with user_endpoint(place, tmp_path, template, high_assurance=True, expect_ready=False) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert "engine.encrypted" in heard.user_text


def test_options_against_the_schema_are_told_with_their_path(place: Site, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"nodes": {"type": "integer"}}}
    with user_endpoint(
        place, tmp_path, THREADS, options={"nodes": "many"}, schema=schema, expect_ready=False
    ) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "OPTIONS_INVALID"
        assert "nodes" in heard.user_text


def test_a_payload_that_was_exchanged_is_refused(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS, payload_sha256="0" * 64, expect_ready=False) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "PAYLOAD_MISMATCH"


def test_a_missing_home_is_told_with_its_path(place: Site, tmp_path: Path) -> None:
    home = tmp_path / "nowhere"
    with user_endpoint(place, tmp_path, THREADS, home=str(home), state_dir="", expect_ready=False) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "HOME_MISSING"
        assert str(home) in heard.user_text


def test_a_home_that_cannot_be_written_is_told_with_its_path(place: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with user_endpoint(
        place, tmp_path, THREADS, state_dir=str(tmp_path / "file" / "state"), expect_ready=False
    ) as running:
        heard = running.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "HOME_NOT_WRITABLE"
        assert str(tmp_path / "file") in heard.user_text


def test_a_second_user_endpoint_of_the_same_id_does_not_start(
    place: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mep.endpoint.service.LOCK_WAIT_S", 0.2)
    with (
        user_endpoint(place, tmp_path, THREADS),
        user_endpoint(place, tmp_path, THREADS, expect_ready=False) as second,
    ):
        heard = second.hear()
        assert isinstance(heard, Failed)
        assert heard.code == "ALREADY_RUNNING"


# ---- ends ----


@pytest.mark.slow
def test_an_idle_one_leaves_says_so_and_loses_no_task(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS + IDLE) as running:
        assert place.run(int) == 0
        until(lambda: "[idle, leaves in 1 heartbeat]" in _title(running.pid), "the countdown", timeout_s=12)
        assert running.wait(15) == 0
        late = place.submit(int)
        place.pump(lambda: any(not r.global_state["active"] for r in place.reports), "the last report")
        assert place.queued() == 1
    with user_endpoint(place, tmp_path, THREADS):
        assert value_of(place.result(late)) == 0


def test_the_counts_in_the_status_follow_the_tasks_within_a_second_or_two(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS) as running:
        assert [place.run(int) for _ in range(3)] == [0, 0, 0]
        running.monitor.sock.settimeout(5)
        counts = (-1, -1)
        while counts != (3, 0):
            got = running.monitor.receive()
            assert got is not None
            if isinstance(got[0], Note):
                counts = (got[0].tasks_done, got[0].tasks_pending)


def test_told_to_quit_it_finishes_what_runs(place: Site, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with user_endpoint(place, tmp_path, THREADS) as running:
        task_id = place.submit(_blocks, flag)
        until(lambda: Path(flag).read_text(), "the task's start")
        running.monitor.send(Quit(grace_s=10))
        time.sleep(0.1)
        Path(flag + ".go").touch()
        assert running.wait() == 0
        assert value_of(place.result(task_id)) == 7


def test_what_still_runs_at_the_end_of_the_grace_is_answered_as_lost(place: Site, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with user_endpoint(place, tmp_path, PROCESSES) as running:
        runs, waits = place.submit(_blocks, flag), place.submit(int)
        until(lambda: Path(flag).read_text(), "the task's start")
        running.monitor.send(Quit(grace_s=0.2))
        assert running.wait() == 0
        result = place.result(runs)
        assert result.error_details is not None
        assert result.error_details.code == "TASK_LOST"
        assert waits not in place.results
    with user_endpoint(place, tmp_path, PROCESSES):
        assert value_of(place.result(waits)) == 0


def test_without_a_monitor_it_leaves_at_once(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS) as running:
        place.submit(_blocks, str(tmp_path / "flag"))
        until(lambda: (tmp_path / "flag").read_text(), "the task's start")
        began = time.monotonic()
        running.monitor.close()
        running.wait(5)
        assert time.monotonic() - began < 1.0


def test_a_task_that_never_returns_holds_its_user_endpoint_until_the_hard_limit(
    place: Site, tmp_path: Path
) -> None:
    with user_endpoint(place, tmp_path, THREADS + IDLE + "idle_heartbeats_hard: 1\n") as running:
        flag = str(tmp_path / "flag")
        task_id = place.submit(_blocks, flag)
        assert running.wait(30) == Exit.OK
        result = place.result(task_id)
        assert result.error_details is not None
        assert result.error_details.code == "TASK_LOST"
        assert "no task or result moved for 1 heartbeats" in result.data


def test_as_shipped_nothing_holds_a_user_endpoint_for_two_days() -> None:
    template = (files("mep.config") / "defaults" / "user_config_template.yaml.j2").read_text()
    text = render(template, options={}, reserved=ReservedVariables({}, {}, {}, {}), source="shipped")
    config = load_user_endpoint_config(text, source="shipped")
    assert config.idle_heartbeats_soft > 0, "0 would switch the hard limit off"
    assert 0 < config.idle_heartbeats_hard * config.heartbeat_period <= 24 * 3600


# ---- kill -9 ----


@pytest.mark.parametrize("template", [THREADS, PROCESSES])
def test_after_a_kill_started_tasks_fail_others_run_and_each_is_answered_once(
    place: Site, tmp_path: Path, template: str
) -> None:
    flag = str(tmp_path / "flag")
    with user_endpoint(place, tmp_path, template) as running:
        started = place.submit(_blocks, flag)
        until(lambda: Path(flag).read_text(), "the task's start")
        buffer = task_buffer(int)
        waiting = [place.submit_buffer(buffer) for _ in range(50)]
        until(lambda: place.queued() == 0, "their delivery")
        running.kill(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    with user_endpoint(place, tmp_path, template):
        result = place.result(started)
        assert result.error_details is not None
        assert result.error_details.code == "TASK_LOST"
        place.pump(lambda: set(waiting) <= set(place.results), "the results of the others")
        assert all(len(place.results[task_id]) == 1 for task_id in waiting)
        assert Path(flag).read_text() == "x"
        assert place.queued() == 0


def test_tasks_of_a_user_endpoint_that_met_a_limit_fail_with_that(place: Site, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with user_endpoint(place, tmp_path, THREADS) as running:
        started = place.submit(_blocks, flag)
        until(lambda: Path(flag).read_text(), "the task's start")
        running.kill(signal.SIGKILL)
        running.wait()
    met = "Your user endpoint was killed: memory limit 2 GiB."
    with user_endpoint(place, tmp_path, THREADS, limit_met=met):
        result = place.result(started)
        assert result.error_details is not None
        assert result.error_details.code == "LIMIT_EXCEEDED"
        assert result.data.startswith(f"LIMIT_EXCEEDED: {met} This task ran then. It may have had effects; ")


def test_with_retry_lost_tasks_a_started_task_runs_again(place: Site, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    template = PROCESSES + "retry_lost_tasks: true\n"
    with user_endpoint(place, tmp_path, template) as running:
        task_id = place.submit(_blocks, flag)
        until(lambda: Path(flag).read_text(), "the task's start")
        running.kill(signal.SIGKILL)
        running.wait()
    Path(flag + ".go").touch()
    with user_endpoint(place, tmp_path, template):
        assert value_of(place.result(task_id)) == 7
        assert Path(flag).read_text() == "xx"


def test_a_task_that_kills_its_endpoint_is_not_retried_for_ever(place: Site, tmp_path: Path) -> None:
    def kills() -> None:
        import os

        os.kill(os.getpid(), 9)

    template = THREADS + "retry_lost_tasks: true\n"
    task_id = place.submit(kills)
    for _ in range(3):
        with user_endpoint(place, tmp_path, template, expect_ready=False) as running:
            assert running.wait() == -signal.SIGKILL
    with user_endpoint(place, tmp_path, template):
        result = place.result(task_id)
        assert result.error_details is not None
        assert result.error_details.code == "TASK_LOST"


def test_a_result_that_the_broker_has_no_queue_for_is_kept_and_sent_later(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS) as running:
        assert place.run(int) == 0
        place.channel.queue_unbind("results", "results", "*.results")
        task_id = place.submit(lambda: 8)
        until(lambda: "does not take them" in running.log(), "the trouble in the log")
        running.kill(signal.SIGKILL)
        running.wait()
    place.channel.queue_bind("results", "results", "*.results")
    with user_endpoint(place, tmp_path, THREADS):
        assert value_of(place.result(task_id)) == 8


def test_a_result_that_the_broker_did_not_take_is_sent_again(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS) as running:
        assert place.run(int) == 0
        place.channel.queue_unbind("results", "results", "*.results")
        task_id = place.submit(lambda: 8)
        until(lambda: "does not take them" in running.log(), "the trouble in the log")
        place.channel.queue_bind("results", "results", "*.results")
        assert value_of(place.result(task_id)) == 8


def test_a_full_disk_takes_no_more_tasks_and_answers_what_runs(place: Site, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")
    with user_endpoint(place, tmp_path, THREADS) as running:
        runs = place.submit(_blocks, flag)
        until(lambda: Path(flag).read_text(), "the task's start")
        limit = (tmp_path / "journal").stat().st_size + 100
        _limit_file_size(running.pid, limit)
        waits = place.submit(lambda: 9)
        until(lambda: "JOURNAL_FULL" in running.log(), "the trouble in the log")
        Path(flag + ".go").touch()
        assert value_of(place.result(runs)) == 7
        place.pump(lambda: place.queued() == 1, "the task's return to the queue")
        assert waits not in place.results
        _limit_file_size(running.pid, -1)
        assert value_of(place.result(waits)) == 9


def _limit_file_size(pid: int, size: int) -> None:
    import resource

    hard = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))


# ---- a start command for one that runs ----


def test_a_refresh_brings_newer_credentials(place: Site, tmp_path: Path) -> None:
    with user_endpoint(place, tmp_path, THREADS) as running:
        fd, _ = payload_fd(place.creds(), {})
        running.monitor.send(Refresh(), fd)
        os.close(fd)
        assert place.run(int) == 0


def test_a_refresh_for_another_is_ignored(place: Site, tmp_path: Path) -> None:
    other = Site(place.url, new_id())
    other.url = Secret("amqp://nobody:nothing@127.0.0.1:1/").reveal()
    with user_endpoint(place, tmp_path, THREADS) as running:
        fd, _ = payload_fd(other.creds(), {})
        running.monitor.send(Refresh(), fd)
        os.close(fd)
        until(lambda: "names another user endpoint" in running.log() or "PAYLOAD" in running.log(), "the log")
        assert place.run(int) == 0
    other.close()
