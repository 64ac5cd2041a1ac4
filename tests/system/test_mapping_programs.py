"""Mapping programs that linger, hang and are asked by crowds: nothing is left, and nobody waits for others."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mep.daemon.turns import MOST_OF_ONE
from mep.host.accounts import find_account
from mep.priv import cgroup
from mep.priv.become import User
from support.daemonrig import DaemonRig, claims_for, daemon
from support.remote import kill_9, titled
from support.wait import until

MakeSite = Callable[[int], DaemonRig]

_ALICE = {"id": "a11ce000-0000-4000-8000-000000000001", "username": "alice@example.org", "status": "used"}
_BOB = {"id": "b0b00000-0000-4000-8000-000000000001", "username": "bob@example.org", "status": "used"}
_LINGERS = "sleep 86399"  # what it leaves, in a session of its own, whatever it is told
_MAPPER = f"""#!/bin/sh
read -r question
setsid sh -c '(trap "" TERM HUP INT; exec {_LINGERS}) & exit' > /dev/null &
case "$question" in
*alice*) echo '{{"result": [{{"id": "{_ALICE["id"]}", "output": "alice"}}]}}';;
*) exec sleep 86398;;
esac
"""


def claims_of(identity: dict[str, Any]) -> Any:
    return claims_for(sub=identity["id"], username=identity["username"], ids=[identity])


@contextmanager
def site(tmp_path: Path, mapping_timeout_s: int) -> Iterator[DaemonRig]:
    program = tmp_path / "mapper"
    program.write_text(_MAPPER)
    program.chmod(0o755)
    (tmp_path / "rig").mkdir()
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(program)]}
    (tmp_path / "rig" / "identity_mapping.json").write_text(json.dumps([document]))
    config = f"mapping_timeout_s: {mapping_timeout_s}\n"
    account = find_account("mep")
    gate = User(account.name, account.uid, account.gid, account.gids, account.home)
    with daemon(tmp_path, config=config, privileged=True, gate_user=gate) as rig:
        yield rig


@pytest.fixture(params=["cgroups", "no cgroups"])
def make_site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if request.param == "no cgroups":
        monkeypatch.setattr(cgroup, "find_base", lambda: None)

    def make(mapping_timeout_s: int) -> DaemonRig:
        rig = stack.enter_context(site(tmp_path, mapping_timeout_s))
        assert rig.status().kept_by.startswith("cgroup" if request.param == "cgroups" else "session processes")
        return rig

    with ExitStack() as stack:
        yield make


def lingering() -> list[int]:
    return titled(_LINGERS)


def test_what_a_mapping_program_leaves_is_gone_before_the_user_endpoint_is_there(make_site: MakeSite) -> None:
    site = make_site(1)
    request = site.start(claims_of(_ALICE), ["serve"])
    assert site.decision(request).verdict == "started"
    assert lingering() == []
    assert site.event(request).event == "ready"


def test_what_a_mapping_program_that_hangs_leaves_is_gone_with_it(make_site: MakeSite) -> None:
    site = make_site(1)
    request = site.start(claims_of(_BOB), ["serve"])
    until(lingering, "it has left something")
    assert site.decision(request).code == "MAPPING_TIMEOUT"
    until(lambda: not lingering() and not titled("sleep 86398"), "all of it is gone", timeout_s=2.0)


def test_what_a_mapping_program_leaves_is_gone_when_the_request_process_is_killed(make_site: MakeSite) -> None:
    site = make_site(20)
    site.start(claims_of(_BOB), ["serve"])
    until(lingering, "it has left something")
    [asker] = titled("mep request: rig")
    kill_9(asker)
    until(lambda: not lingering() and not titled("sleep 86398"), "all of it is gone", timeout_s=2.0)


def asking(rig: DaemonRig) -> int:
    """Count the request processes (a warden has the same title for a moment)."""
    return sum(parent_of(pid) == rig.child.pid for pid in titled("mep request: rig"))


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_one_identity_with_a_slow_mapping_neither_fills_the_process_table_nor_delays_others(
    tmp_path: Path,
) -> None:
    with site(tmp_path, 2) as rig:
        slow = [rig.start(claims_of(_BOB), ["serve"]) for _ in range(16)]
        before = time.monotonic()
        quick = rig.start(claims_of(_ALICE), ["serve"])
        most = 0
        while not any(row.user == "alice" for row in rig.status().user_endpoints):
            most = max(most, asking(rig))
        assert rig.decision(quick).verdict == "started"
        assert time.monotonic() - before < 1.8, "it waited for a mapping of somebody else's"
        for request in slow:
            most = max(most, asking(rig))
            assert rig.decision(request).code == "MAPPING_TIMEOUT"
        assert 2 < most <= MOST_OF_ONE + 1
        assert time.monotonic() - before < 12.0
        assert len(rig.status().user_endpoints) == 1
