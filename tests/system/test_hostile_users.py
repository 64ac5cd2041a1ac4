"""A hostile user's functions reach nothing of the daemon and nothing of other users."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from mep import Client
from support import hostile
from support.endpoint import Endpoint
from support.remote import WAIT_S, alive, by_source, process_id, titled
from support.rigs import MakeEndpoint, SdkEnv

pytestmark = pytest.mark.timeout(120)

ENGINES = {
    "threads": "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n",
    "processes": "engine:\n  type: ProcessPoolEngine\n  max_workers: 2\n",
}


@pytest.fixture(params=ENGINES)
def site(request: pytest.FixtureRequest, endpoint: MakeEndpoint) -> Endpoint:
    return endpoint("hostile", template=ENGINES[request.param])


def everything_below(*folders: Path) -> list[str]:
    """Return the folders and all that is in them, as root sees it."""
    return [str(path) for folder in folders for path in (folder, *sorted(folder.rglob("*")))]


def test_no_process_of_others_can_be_read_traced_or_signalled(site: Endpoint, sdk_env: SdkEnv) -> None:
    sdk_env("bob@example.org")
    with by_source(site.id) as bobs:
        bob = bobs.submit(process_id).result(WAIT_S)
        [uep] = [one["pid"] for one in site.user_endpoints()]
        targets = sorted({1, bob, uep, *titled(": hostile"), *titled("mep worker hostile bob")})
        assert len(targets) >= 5, "process 1, monitor, gate, guard, bob's own"
        sdk_env("alice@example.org")
        with by_source(site.id) as alices:
            assert alices.submit(hostile.pry, targets).result(WAIT_S) == []
            assert alices.submit(hostile.meddle, targets).result(WAIT_S) == []
        assert alive(targets) == targets
        assert bobs.submit(process_id).result(WAIT_S) == bob


def test_no_file_or_socket_of_others_can_be_opened(site: Endpoint, sdk_env: SdkEnv) -> None:
    (site.state_dir / "credentials.json").touch(mode=0o600)
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


def test_nobody_leaves_their_cgroup(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("caged")
    sdk_env("bob@example.org")
    with by_source(site.id) as executor:
        bob = executor.submit(process_id).result(WAIT_S)
    mount = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line)
    path = next(
        line[3:] for line in Path(f"/proc/{bob}/cgroup").read_text().splitlines() if line.startswith("0::")
    )
    others = [mount + path, str(Path(mount + path).parent / "gate")]
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(hostile.leave_cgroup, others).result(WAIT_S) == []
        inside = executor.submit(hostile.use_user_namespace).result(WAIT_S)
        assert [what for what in inside if what != "user namespace"] == []
    assert alive([bob]) == [bob]


def test_nobody_becomes_root_again(site: Endpoint, sdk_env: SdkEnv) -> None:
    sdk_env("alice@example.org")
    with by_source(site.id) as executor:
        assert executor.submit(hostile.regain_root).result(WAIT_S) == []


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
            done = alices.submit(hostile.use_broker, [uep["uep_id"], site.id], queues, {task: "forged"}).result(
                WAIT_S
            )
            assert done == []
            assert alices.submit(process_id).result(WAIT_S), "what was sent before is handled by now"
        assert not future.done()
        signal.touch()
        assert future.result(WAIT_S) == "done"
    assert "tasks that are not its own" in site.relay.tail()
