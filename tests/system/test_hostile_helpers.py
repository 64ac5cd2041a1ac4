"""The attacks of support/hostile.py work where nothing stands against them.

An attack that cannot work would prove nothing by its failure.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import hostile, noise
from support.remote import alive, kill_9, processes_of

pytestmark = pytest.mark.timeout(60)

ALICE = 20001
OWN_CHILD = "import subprocess; own = subprocess.Popen(['sleep', '60'], stdin=-3)"


@pytest.fixture(autouse=True)
def _alice_leaves() -> Iterator[None]:
    yield
    while left := processes_of(ALICE):  # some of them have more
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                kill_9(pid)


def let_loose(
    attack: Callable[..., object], arguments: str = "", *, first: str = "", user: str = "alice"
) -> list[str]:
    """Run the attack's source as `user`, with `arguments` (an expression), after `first`; return what worked."""
    lines = ["from __future__ import annotations", first, inspect.getsource(attack), "import json"]
    lines.append(f"print(json.dumps({attack.__name__}({arguments})))")
    with tempfile.TemporaryFile() as told:  # no pipe: what clings would hold it open
        subprocess.run(
            [sys.executable, "-I", "-c", "\n".join(lines)],
            env={"HOME": f"/home/{user}", "PATH": "/usr/bin:/bin"},
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            timeout=30,
            check=True,
        )
        told.seek(0)
        answer: list[str] = json.loads(told.read().splitlines()[-1])
    return answer


def ways_of(attack: Callable[..., object]) -> int:
    """Return how many ways its table has."""
    source = inspect.getsource(attack)
    table = source.partition("] = {\n")[2].partition("\n    }\n")[0]
    return table.count('        "')


@pytest.mark.parametrize("attack", [hostile.pry, hostile.meddle])
def test_every_way_into_a_process_works_on_ones_own(attack: Callable[..., object]) -> None:
    done = let_loose(attack, "[own.pid]", first=OWN_CHILD)
    assert len(done) == ways_of(attack), done


@pytest.fixture
def own_folder() -> Iterator[Path]:
    folder = Path("/home/alice/own")
    folder.mkdir()
    (folder / "file").write_text("mine")
    for path in (folder, folder / "file"):
        shutil.chown(path, "alice", "alice")
    yield folder
    shutil.rmtree(folder)


def test_every_way_into_a_file_or_socket_works_on_ones_own(own_folder: Path) -> None:
    listen = "import socket; own = socket.socket(1, {}); own.bind('{}'); own.type == 2 or own.listen()"
    file = let_loose(hostile.break_in, f"['{own_folder}/file']")
    assert len(file) == ways_of(hostile.break_in) - 1, file
    for kind in (1, 2, 5):
        path = f"{own_folder}/{kind}"
        assert f"connect {path}" in let_loose(hostile.break_in, f"['{path}']", first=listen.format(kind, path))
    folder = let_loose(hostile.break_in, f"['{own_folder}']")
    assert {f"{way} {own_folder}" for way in ("read", "replace", "add beside", "chmod", "watch")} <= set(folder)


@pytest.fixture
def own_cgroups() -> Iterator[Path]:
    """A cgroup, ours for now, that alice may leave for another one, which is hers."""
    mount = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line)
    path = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    root = Path(mount + path) / "helpers"
    (root / "inner").mkdir(parents=True)
    (root / "other").mkdir()
    for one in (root / "cgroup.procs", root / "other", *(root / "other").iterdir()):
        shutil.chown(one, "alice", "alice")
    (root / "inner" / "cgroup.procs").write_text("0")
    yield root
    (root.parent / "cgroup.procs").write_text("0")
    for one in (root / "other" / "own", root / "other", root / "inner", root):
        if one.exists():
            one.rmdir()


def test_leaving_a_cgroup_works_where_the_other_is_ones_own(own_cgroups: Path) -> None:
    done = let_loose(hostile.leave_cgroup, f"['{own_cgroups / 'other'}']")
    wanted = ("cgroup.kill", "cgroup.freeze", "cgroup.max.depth", "cgroup.procs", "mkdir")
    assert {f"{way} in {own_cgroups / 'other'}" for way in wanted} <= set(done)
    assert "another cgroup" in done


def test_every_way_to_more_rights_works_for_root() -> None:
    namespaces = set(let_loose(hostile.leave_namespaces, user="root"))
    assert {f"a {kind} namespace" for kind in ("mount", "cgroup", "network")} <= namespaces
    assert "the mnt namespace of process 1" in namespaces
    inside = let_loose(hostile.use_user_namespace, user="root")
    # some hosts allow no user namespaces
    assert "read /etc/shadow" in inside or "user namespace" not in inside, (
        "not where the host allows no namespaces"
    )
    gained = set(let_loose(hostile.regain_root, user="root"))
    by_ids = {
        "setuid",
        "setreuid",
        "setresuid",
        "setgid",
        "setgroups",
        "shadow",
        "chroot",
        "capset",
        "ambient capability",
    }
    assert by_ids <= gained, gained


def test_setuid_programs_work_where_no_new_privs_is_off() -> None:
    assert "setuid program" in let_loose(hostile.regain_root)


def test_what_clings_outlives_whoever_started_it() -> None:
    pids = [int(pid) for pid in let_loose(noise.cling)]
    assert len(pids) == len(alive(pids)) == noise.CLINGING


def test_a_job_can_be_left_where_no_new_privs_is_off() -> None:
    try:
        assert "at" in let_loose(noise.leave_a_job, "'/home/alice/later'"), "needs the Debian package at"
    finally:
        for job in Path("/var/spool/cron/atjobs").glob("a*"):
            if job.stat().st_uid == ALICE:
                job.unlink()
