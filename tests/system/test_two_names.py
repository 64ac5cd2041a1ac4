"""The rules are about accounts, as the kernel knows them, and not about one of their names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mep.host.accounts import find_account
from mep.priv.become import User
from mep.wire.signing import StartClaims
from support.daemonrig import DaemonRig, claims_for, daemon


def claims_of(name: str) -> StartClaims:
    identity = {"id": f"{abs(hash(name)):032x}", "username": f"{name}@example.org", "status": "used"}
    return claims_for(sub=identity["id"], username=identity["username"], ids=[identity])


@pytest.fixture
def second_name() -> Iterator[str]:
    """Another name of alice, and another name of the group of those who are banned."""
    files = {
        Path("/etc/passwd"): "alicia:x:20001:20001::/home/alice:/bin/sh\n",
        Path("/etc/group"): "out:x:20901:\n",
    }
    before = {path: path.read_text() for path in files}
    for path, line in files.items():
        path.write_text(before[path] + line)
    yield "alicia"
    for path, text in before.items():
        path.write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rig").mkdir()
    rule = {"source": "{username}", "match": r"(.*)@example\.org", "output": "{0}"}
    document = {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}
    (tmp_path / "rig" / "identity_mapping.json").write_text(json.dumps([document]))
    return tmp_path


def site(folder: Path, rules: str) -> AbstractContextManager[DaemonRig]:
    account = find_account("mep")
    gate = User(account.name, account.uid, account.gid, account.gids, account.home)
    return daemon(folder, config=rules, privileged=True, gate_user=gate)


def code_of(rig: DaemonRig, name: str) -> str:
    return rig.decision(rig.start(claims_of(name), ["serve"])).code


@pytest.mark.parametrize("rule", ["denied_users: [alice]", 'denied_users: ["20001"]', "denied_users: [al?ce]"])
def test_a_second_name_of_a_denied_account_is_denied(folder: Path, second_name: str, rule: str) -> None:
    with site(folder, f"{rule}\n") as rig:
        assert code_of(rig, "alice") == code_of(rig, second_name) == "IDENTITY_DENIED"
        assert code_of(rig, "bob") == ""


def test_a_second_name_of_a_denied_group_is_denied(folder: Path, second_name: str) -> None:
    with site(folder, "denied_groups: [out]\n") as rig:
        assert code_of(rig, "dave") == "IDENTITY_DENIED"
        assert code_of(rig, second_name) == ""


def test_two_names_of_one_account_share_its_limits_and_its_end(folder: Path, second_name: str) -> None:
    with site(folder, "max_user_endpoints_per_user: 1\n") as rig:
        first = rig.start(claims_of("alice"), ["serve"])
        assert rig.event(first).event == "ready"
        assert code_of(rig, second_name) == "USER_LIMIT_REACHED"
        assert rig.ask("stop-user", user="20001").ok
        assert rig.event(first).event == "ended"
