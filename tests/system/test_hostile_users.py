"""A hostile user's functions reach nothing of the daemon and nothing of other users."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mep import Client
from support import hostile
from support.endpoint import Endpoint
from support.remote import WAIT_S, alive, by_source, process_id, processes_of, titled
from support.rigs import MakeEndpoint, SdkEnv

pytestmark = pytest.mark.timeout(120)

THREADS = "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n"
PROCESSES = "engine:\n  type: ProcessPoolEngine\n  max_workers: 2\n"
PARSL = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  encrypted: {encrypted}
  provider: {{type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}}
"""
SERVICE = "mep-hostile"
PAM = "auth required pam_rootok.so\naccount required pam_unix.so\nsession required pam_permit.so\n"
SITES: dict[str, dict[str, Any]] = {
    "threads": {"template": THREADS},
    "processes": {"template": PROCESSES},
    "exec": {"template": THREADS, "config": {"spawn": "exec"}},
    "pam": {"template": THREADS, "config": {"pam": {"enable": True, "service_name": SERVICE}}},
    "parsl": {"template": PARSL.format(encrypted="true")},
}
BOB = 20002


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, indirect=True)


@pytest.fixture
def site(kind: str, endpoint: MakeEndpoint) -> Endpoint:
    Path("/etc/pam.d", SERVICE).write_text(PAM)
    made = endpoint("hostile", start=False, **SITES[kind])
    if kind == "exec":
        path = os.environ.get("PYTHONPATH", "")
        (made.directory / "user_environment.yaml").write_text(f"PYTHONPATH: {path}\n")
    return made.start()


def everything_below(*folders: Path) -> list[str]:
    """Return the folders and all that is in them, as root sees it."""
    return [str(path) for folder in folders for path in (folder, *sorted(folder.rglob("*")))]


@on("processes", "exec", "pam", "parsl")
def test_no_process_of_others_can_be_read_traced_or_signalled(site: Endpoint, kind: str, sdk_env: SdkEnv) -> None:
    sdk_env("bob@example.org")
    with by_source(site.id) as bobs:
        bob = bobs.submit(process_id).result(WAIT_S)
        [uep] = [one["pid"] for one in site.user_endpoints()]
        sessions = titled("mep session: hostile bob")
        assert len(sessions) == (kind == "pam"), "a root process for each user endpoint"
        targets = sorted({1, *titled(": hostile"), *sessions, *processes_of(BOB)})
        assert {bob, uep} < set(targets)
        assert len(targets) >= 5, "process 1, monitor, gate, guard, bob's own"
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            assert alices.submit(hostile.pry, targets).result(WAIT_S) == []
            assert alices.submit(hostile.meddle, targets).result(WAIT_S) == []
        assert alive(targets) == targets
        assert bobs.submit(process_id).result(WAIT_S) == bob


@on("parsl")
def test_no_file_or_socket_of_others_can_be_opened(site: Endpoint, sdk_env: SdkEnv) -> None:
    (site.state_dir / "credentials.json").touch(mode=0o600)
    site.directory.chmod(0o755)  # the state below it is closed by its own mode, as it is below /var/lib/mep
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
    private = everything_below(site.state_dir, Path("/home/bob"), site.relay.data_dir)
    assert any(path.endswith("journal") for path in private)
    assert any(path.endswith("endpoint.log") for path in private)
    assert any(path.endswith("audit.log") for path in private)
    assert any("control" in path.rpartition("/")[2] for path in private), private
    mine = {str(site.state_dir), "/home/bob", str(site.relay.data_dir)}  # that they are there is no secret
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        done = executor.submit(hostile.break_in, private).result(WAIT_S)
        config = [str(path) for path in site.directory.iterdir()]
        changed = executor.submit(hostile.break_in, [*config, str(site.directory)]).result(WAIT_S)
    assert [what for what in done if what.removeprefix("watch ") not in mine] == []
    harmless = ("watch ", "read ")
    assert [what for what in changed if not what.startswith(harmless)] == [], "what steers root"


def cgroup_of(pid: int) -> str:
    """Return the folder of its cgroup."""
    mount = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line)
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return mount + next(line[3:] for line in lines if line.startswith("0::"))


@on("threads", "pam")
def test_nobody_leaves_their_cgroup(site: Endpoint, sdk_env: SdkEnv) -> None:
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        bob = executor.submit(process_id).result(WAIT_S)
    [gate], [monitor] = titled("mep gate: hostile"), titled("mep monitor: hostile")
    others = [cgroup_of(pid) for pid in (bob, gate, monitor)]
    assert all(os.path.exists(f"{other}/cgroup.procs") for other in others)
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(hostile.leave_cgroup, others).result(WAIT_S) == []
        assert executor.submit(hostile.leave_namespaces).result(WAIT_S) == []
        inside = executor.submit(hostile.use_user_namespace).result(WAIT_S)
        assert [what for what in inside if what != "user namespace"] == []
    assert alive([bob]) == [bob]


@on("processes", "exec", "pam")
def test_nobody_becomes_root_again(site: Endpoint, kind: str, sdk_env: SdkEnv) -> None:
    as_in_a_login = ["setuid program"] if kind == "pam" else []
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(hostile.regain_root).result(WAIT_S) == as_in_a_login


def ports_of(uid: int) -> list[int]:
    """Return where processes of this account listen."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    listening = "0A"
    return [int(f[1].rpartition(":")[2], 16) for f in lines if f[3] == listening and f[7] == str(uid)]


@pytest.mark.parametrize("encrypted", ["true", "false"])
def test_nobody_talks_to_anothers_batch_workers(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, encrypted: str
) -> None:
    site = endpoint("ported", template=PARSL.format(encrypted=encrypted))
    traps = open_dir / "traps"
    traps.mkdir()
    traps.chmod(0o777)
    sdk_env("bob@example.org")
    with by_source(site.id) as bobs:
        bobs.submit(process_id).result(WAIT_S)
        ports = ports_of(BOB)
        assert len(ports) >= 4, "the interchange's, and three of the user endpoint's own"
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            answered = alices.submit(hostile.use_interchange, ports, f"{traps}/trap").result(WAIT_S)
        sprung = [path.name for path in traps.iterdir() if path.stat().st_uid == BOB]
        if encrypted == "true":
            assert (answered, sprung) == ([], [])
            assert bobs.submit(process_id).result(WAIT_S)
        else:
            assert answered, "what security.md says of `encrypted: false`, and that the attack can work"
            assert sprung


@pytest.fixture
def roots_key() -> Iterator[str]:
    """A key in this process's session keyring, which everything that it starts inherits."""
    libc = ctypes.CDLL(None, use_errno=True)
    keyctl, add_key = {"x86_64": (250, 248), "ppc64le": (271, 269), "s390x": (280, 278)}.get(
        platform.machine(), (219, 217)
    )
    if libc.syscall(keyctl, 1, None) < 0:
        pytest.skip(f"no keyrings here: {os.strerror(ctypes.get_errno())}")
    content = b"of root alone"
    assert libc.syscall(add_key, b"user", b"mep-test", content, len(content), -3) > 0
    yield "mep-test"
    libc.syscall(keyctl, 1, None)


def test_the_keys_of_whoever_started_the_daemon_stay_there(
    roots_key: str, endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    assert hostile.find_key(roots_key) == "of root alone"
    site = endpoint("keys")
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(hostile.find_key, roots_key).result(WAIT_S) == ""


def sleep_until(path: str) -> str:
    """Runs in the user endpoint: return once that file is there."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.05)
    return "done"


def test_the_own_broker_account_reaches_nothing_of_others(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    site = endpoint("brokered")
    sdk_env("bob@example.org")
    signal = open_dir / "go"
    with by_source(site.id) as bobs:
        future = bobs.submit(sleep_until, str(signal))
        bobs.submit(process_id).result(WAIT_S)
        [uep] = site.user_endpoints()
        group = f"tg.{Client().whoami()['sub']}.{bobs.task_group_id}"
        queues = [f"{uep['uep_id']}.tasks", f"{site.id}.commands", "results", "heartbeats", group]
        task = future.task_id
        assert task
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            alices.submit(process_id).result(WAIT_S)
            [mine] = [one["uep_id"] for one in site.user_endpoints() if one["user"] == "alice"]
            own = alices.submit(hostile.use_broker, [mine], [], {}).result(WAIT_S)
            assert own == [f"publish {mine}.results", f"publish {mine}.heartbeats"], "the attack can work"
            done = alices.submit(hostile.use_broker, [uep["uep_id"], site.id], queues, {task: "forged"}).result(
                WAIT_S
            )
            assert done == []
            assert alices.submit(process_id).result(WAIT_S), "what was sent before is handled by now"
        assert not future.done()
        signal.touch()
        assert future.result(WAIT_S) == "done"
    assert "tasks that are not its own" in site.relay.tail()
