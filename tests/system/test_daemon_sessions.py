"""The session process: PAM's session lives as long as the user process; without cgroups, nothing escapes."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.base.codes import Code
from support.program import Program, mep
from support.remote import WAIT_S, alive, assert_refused, by_source, escape, kill_9, process_id, refusal, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)
GONE_S = 2.0


def see_session() -> dict[str, Any]:
    """Runs in the user endpoint: what PAM gave it, and whether setuid programs would still work."""
    import os
    import resource
    from pathlib import Path

    status = Path("/proc/self/status").read_text()
    return {
        "marker": os.environ.get("FROM_PAM"),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "nproc": resource.getrlimit(resource.RLIMIT_NPROC),
        "groups": sorted(os.getgroups()),
        "no_new_privs": "NoNewPrivs:\t1" in status,
        "effective": next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")),
        "uids": os.getresuid(),
        "parent": os.getppid(),
        "cgroup": Path("/proc/self/cgroup").read_text(),
    }


def see_limits() -> tuple[int, int]:
    """Runs in the user endpoint."""
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]


@pytest.fixture
def pam_service(open_dir: Path) -> Iterator[str]:
    """A service of our own in the sandbox's /etc/pam.d, which notes each session's end."""
    env, limits, note = open_dir / "env.conf", open_dir / "limits.conf", open_dir / "note"
    env.write_text("FROM_PAM DEFAULT=yes\n")
    limits.write_text("* hard nofile 512\n* soft nofile 512\n* hard nproc 9000\n* soft nproc 7000\n")
    note.write_text(f"#!/bin/sh\necho $PAM_TYPE $PAM_USER >>{open_dir}/sessions\n")
    note.chmod(0o755)
    service = Path("/etc/pam.d/mep-test")
    service.write_text(
        "auth required pam_rootok.so\nauth required pam_group.so\n"
        "account required pam_shells.so\naccount required pam_unix.so\n"
        f"session required pam_limits.so conf={limits}\n"
        f"session required pam_env.so conffile={env} readenv=0\n"
        f"session required pam_exec.so {note}\n"
    )
    Path("/etc/security/group.conf").write_text(f"{service.name};*;alice;Al0000-2400;banned\n")
    yield service.name
    service.unlink()


def test_limits_and_groups_that_modules_give_reach_the_user_process(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam_service: str
) -> None:
    """Where the endpoint has limits of its own, the lower one of each pair is in force, soft and hard."""
    template = "engine:\n  type: ThreadPoolEngine\nlimits:\n  pids: {{ pids }}\n"
    pam = {"enable": True, "service_name": pam_service}
    site = endpoint("pamgives", template=template, config={"pam": pam, "limits": {"pids": 8500}})
    sdk_env("alice@example.org")
    for pids, nproc in ((9999, [7000, 8500]), (8000, [7000, 8000])):
        with by_source(site.id, user_endpoint_config={"pids": pids}) as executor:
            seen = executor.submit(see_session).result(WAIT_S)
        assert list(seen["nproc"]) == nproc
    groups = [pwd.getpwnam("alice").pw_gid, *(grp.getgrnam(name).gr_gid for name in ("research", "banned"))]
    assert seen["groups"] == sorted(groups), "those of the account, and what pam_group adds"


def test_a_pam_session_lives_as_long_as_the_user_process(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam_service: str, open_dir: Path
) -> None:
    site = endpoint("pam", config={"pam": {"enable": True, "service_name": pam_service}, "min_uid": 1000})
    sessions = open_dir / "sessions"
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        seen = executor.submit(see_session).result(WAIT_S)
        pids = [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]
    assert seen["marker"] == "yes"
    assert seen["nofile"] == 512
    assert seen["no_new_privs"] is False
    assert int(seen["effective"], 16) == 0
    assert seen["uids"] == (20001,) * 3
    assert seen["cgroup"].rstrip().endswith("/user")
    [uep] = site.user_endpoints()
    assert uep["pid"] == pids[0]
    assert titled("mep session: pam alice") == [seen["parent"]]
    assert sessions.read_text() == "open_session alice\n"
    kill_9(pids[0])
    until(lambda: not alive(pids), "all of the user's processes are gone", timeout_s=GONE_S)
    until(lambda: sessions.read_text().endswith("close_session alice\n"), "the session is closed")
    sdk_env("nologin@example.org")
    text = refusal(site)
    assert_refused(text, Code.PAM_REFUSED)
    assert "shell" not in text


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_pam_sessions_are_closed_at_the_daemons_end(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, pam_service: str, open_dir: Path, end: str
) -> None:
    site = endpoint("pamstop", config={"pam": {"enable": True, "service_name": pam_service}})
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        pids = [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]
    if end == "stop":
        site.mep("stop", "pamstop")
    else:
        kill_9(site.status()["pid"])
    until(lambda: not alive(pids), "all of the user's processes are gone", timeout_s=GONE_S)
    until(lambda: "close_session alice" in (open_dir / "sessions").read_text(), "the session is closed")
    until(lambda: not titled(": pamstop"), "nobody is left")


def test_an_unknown_pam_service_refuses_everybody_and_says_which(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("nopam", config={"pam": {"enable": True, "service_name": "no-such-service"}})
    sdk_env("alice@example.org")
    assert_refused(refusal(site), Code.PAM_REFUSED)
    [shown] = site.status()["last_refusals"]
    assert (shown["code"], "no-such-service" in shown["text"]) == ("PAM_REFUSED", True)
    assert "no-such-service" in site.log_text()
    assert "Traceback" not in site.log_text()


def start_without_cgroups(site: Any) -> None:
    """Run the daemon where no cgroup2 is mounted."""
    hidden = 'mount --make-rprivate / && umount -l /sys/fs/cgroup && exec "$@"'
    command = mep("--config-dir", site.config_dir, "start", site.name)
    site.program = Program.start(
        ["/usr/bin/unshare", "-m", "/bin/sh", "-c", hidden, "sh", *command],
        log=site.config_dir / f"{site.name}.log",
        env=site.environment(),
    )
    until(site._is_up, "the endpoint is up", timeout_s=30.0)


def test_without_cgroups_nothing_escapes_either(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("nocg", start=False)
    start_without_cgroups(site)
    assert "session processes" in site.log_text()
    sdk_env("alice@example.org")

    def started() -> list[int]:
        with by_source(site.id) as executor:
            return [executor.submit(process_id).result(WAIT_S), *executor.submit(escape).result(WAIT_S)]

    pids = started()
    kill_9(pids[0])
    until(lambda: not alive(pids), "killed user endpoint", timeout_s=GONE_S)
    pids = started()
    monitor = site.status()["pid"]
    kill_9(monitor)
    until(lambda: not alive(pids), "killed monitor", timeout_s=GONE_S)
    assert site.program is not None
    site.program.process.wait(5)
    until(lambda: not titled(": nocg"), "nobody is left")
    start_without_cgroups(site)
    pids = started()
    site.mep("stop", "nocg")
    assert alive(pids) == []
    assert os.path.exists("/sys/fs/cgroup")


def test_limits_reach_the_user_process(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("limited", config={"limits": {"memory": "3 GiB", "pids": 300}})

    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        memory, processes = executor.submit(see_limits).result(WAIT_S)
    assert (memory, processes) == (3 * 2**30, 300), "no controller is delegated on this machine: rlimits stand in"


def see_interpreter() -> dict[str, Any]:
    """Runs in the user endpoint."""
    import os
    import sys
    from pathlib import Path

    title = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {"exe": os.readlink("/proc/self/exe"), "prefix": sys.prefix, "uids": os.getresuid(), "title": title}


def test_a_fresh_interpreter_where_the_site_wants_one(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("fresh", config={"spawn": "exec"})
    (site.directory / "user_environment.yaml").write_text(f"PYTHONPATH: {os.environ.get('PYTHONPATH', '')}\n")
    until(lambda: "user_environment.yaml: the change is in force" in site.log_text(), "the environment is read")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        seen = executor.submit(see_interpreter).result(WAIT_S)
        pid = executor.submit(process_id).result(WAIT_S)
    assert seen["uids"] == (20001,) * 3
    assert [uep["pid"] for uep in site.user_endpoints()] == [pid]
    assert "alice" in seen["title"]


def test_another_mep_on_the_users_path_is_the_one_that_runs(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    folder = open_dir / "other" / "bin"
    folder.mkdir(parents=True)
    (folder / "mep").write_text("#!/bin/sh\n")
    (folder / "python3").write_text("#!/bin/sh\nexit 3\n")
    (folder / "mep").chmod(0o755)
    site = endpoint("other", start=False)
    (site.directory / "user_environment.yaml").write_text(f"PATH: {folder}:/usr/bin:/bin\n")
    site.start()
    sdk_env("alice@example.org")
    text = refusal(site)
    assert "INTERPRETER_UNREADABLE" in text
    assert f"{folder}/python3" in text


def test_a_template_lowers_limits_and_never_raises_them(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    template = "engine:\n  type: ThreadPoolEngine\nlimits:\n  memory: {{ memory }}\n  pids: 5000\n"
    site = endpoint("lower", template=template, config={"limits": {"memory": "3 GiB", "pids": 300}})
    sdk_env("alice@example.org")
    for asked, found in (("2 GiB", 2), ("8 GiB", 3)):
        with by_source(site.id, user_endpoint_config={"memory": asked}) as executor:
            memory, processes = executor.submit(see_limits).result(WAIT_S)
        assert (memory, processes) == (found * 2**30, 300)
