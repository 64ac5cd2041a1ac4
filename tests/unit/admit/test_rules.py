from __future__ import annotations

from typing import Any

import pytest

from mep.admit.account import Account, Ids
from mep.admit.rules import Running, check_account, check_load, check_name
from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.config.endpoint import EndpointConfig


def account(**changes: Any) -> Account:
    facts: dict[str, Any] = {
        "name": "alice",
        "uid": 2001,
        "gid": 2001,
        "gids": (2001, 3000),
        "group_names": ("alice", "hpc-users"),
        "home": "/home/alice",
        "shell": "/bin/bash",
    }
    return Account(**(facts | changes))


def config(**settings: Any) -> EndpointConfig:
    return EndpointConfig(**settings)


def refusal(who: Account, rules: EndpointConfig, **more: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check_account(who, rules, **more)
    return caught.value


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"min_uid": 2001},
        {"allowed_users": ["alice"]},
        {"allowed_users": ["bob"], "allowed_groups": ["hpc-*"]},
        {"allowed_groups": ["nobody-*", "hpc-use[rs]s"]},
        {"denied_users": ["alic", "lice", "alice?"], "denied_groups": ["hpc"]},
    ],
)
def test_an_ordinary_account_is_admitted(rules: dict[str, Any]) -> None:
    check_account(account(), config(**rules), gate_uid=990)


@pytest.mark.parametrize(
    ("changes", "rules", "code"),
    [
        ({"uid": 0}, {"allowed_users": ["alice"]}, Code.IDENTITY_MAPPED_TO_ROOT),
        ({"uid": 0, "name": "toor"}, {"min_uid": 1}, Code.IDENTITY_MAPPED_TO_ROOT),
        ({"uid": 999}, {}, Code.IDENTITY_UID_TOO_LOW),
        ({"uid": 2001}, {"min_uid": 2002}, Code.IDENTITY_UID_TOO_LOW),
        ({"uid": 5555}, {"allowed_users": ["alice"]}, Code.IDENTITY_ACCOUNT_RESERVED),
        ({}, {"denied_users": ["al*"]}, Code.IDENTITY_DENIED),
        ({}, {"denied_users": ["alice"], "allowed_users": ["alice"]}, Code.IDENTITY_DENIED),
        ({}, {"denied_groups": ["hpc-users"]}, Code.IDENTITY_DENIED),
        ({"group_names": ("alice", "root")}, {}, Code.IDENTITY_DENIED),
        ({"name": "nobody", "uid": 65534}, {}, Code.IDENTITY_DENIED),
        ({}, {"allowed_users": []}, Code.IDENTITY_DENIED),
        ({}, {"allowed_groups": ["HPC-users"]}, Code.IDENTITY_DENIED),
    ],
)
def test_others_are_refused_each_with_its_code(changes: dict[str, Any], rules: dict[str, Any], code: Code) -> None:
    assert refusal(account(**changes), config(**rules), gate_uid=5555).code is code


def test_what_no_setting_can_lift_comes_first() -> None:
    root = account(uid=0, gid=0)
    assert refusal(root, config(denied_users=["alice"])).code is Code.IDENTITY_MAPPED_TO_ROOT


@pytest.mark.parametrize(
    "name",
    [
        "",
        " alice",
        "alice ",
        "al ice",
        "al\nice",
        "alice\n",
        "../etc",
        "a/b",
        "-rf",
        "0",
        "1000",
        "al:ice",
        "al\0ice",
        "$(id)",
        "a" * 65,
        "älice",
        "alice@",
        "+",
    ],
)
def test_a_name_with_odd_characters_is_no_account(name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check_name(name)
    assert caught.value.code is Code.IDENTITY_NO_ACCOUNT
    assert refusal(account(name=name), config()).code is Code.IDENTITY_NO_ACCOUNT


@pytest.mark.parametrize("name", ["alice", "_svc", "a.b-c_1", "A", "alice@site.example"])
def test_usual_names_are_accepted(name: str) -> None:
    assert check_name(name) == name


PLANTED = account(
    name="planted-user",
    uid=777,
    gid=4242,
    group_names=("planted-group",),
    home="/home/planted-home",
    gecos="planted-gecos",
)


@pytest.mark.parametrize(
    ("who", "rules"),
    [
        (PLANTED, {}),
        (account(name="planted-user", uid=0), {}),
        (account(name="planted-user"), {"denied_users": ["planted-*"]}),
        (account(group_names=("planted-group",)), {"denied_groups": ["planted-group"]}),
        (account(name="planted-user"), {"allowed_users": ["planted-other"], "allowed_groups": ["planted-third"]}),
        (account(name="planted-user", uid=5555), {}),
        (account(name="planted user"), {}),
    ],
)
def test_the_user_is_told_no_local_name_and_no_number(who: Account, rules: dict[str, Any]) -> None:
    error = refusal(who, config(**rules), gate_uid=5555)
    told = error.user_text + error.step  # the code itself may say ROOT
    assert not [fact for fact in ("planted", "777", "1000", "5555", "root", "mep") if fact in told.lower()]
    assert "planted" in error.for_admin()


def test_another_name_of_a_denied_account_or_group_is_denied() -> None:
    ids = Ids(uids={"alicia": 2001, "bob": 2002}, gids={"others": 3000, "none": 4000})
    for rules in ({"denied_users": ["alicia"]}, {"denied_users": ["ali?ia"]}, {"denied_groups": ["others"]}):
        assert refusal(account(), config(**rules), ids=ids).code is Code.IDENTITY_DENIED
    check_account(account(), config(denied_users=["bob", "2*", "[0-9]*"], denied_groups=["none", "3*"]), ids=ids)


def running(*users: str) -> list[Running]:
    return [Running(uep_id=str(number), user=user) for number, user in enumerate(users)]


def load_refusal(*args: Any, **more: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check_load(*args, **more)
    return caught.value


def test_load_within_the_limits_is_admitted() -> None:
    rules = config(max_user_endpoints=3, max_user_endpoints_per_user=2, start_rate_per_user=2)
    check_load(running("alice", "bob"), "alice", rules, recent_starts=[0.0, 50.0], now=100.0)
    no_limits = config(max_user_endpoints=None, max_user_endpoints_per_user=None, start_rate_per_user=None)
    check_load(running(*["alice"] * 5000), "alice", no_limits, recent_starts=[99.0] * 5000, now=100.0)


def test_load_beyond_a_limit_is_refused_each_with_its_code() -> None:
    rules = config(max_user_endpoints=3, max_user_endpoints_per_user=2, start_rate_per_user=2)
    assert load_refusal([], "a", rules, draining=True).code is Code.ENDPOINT_DRAINING
    assert load_refusal(running("a", "b", "c"), "d", rules).code is Code.ENDPOINT_FULL
    assert load_refusal(running("a", "a"), "a", rules).code is Code.USER_LIMIT_REACHED
    recent = load_refusal([], "a", rules, recent_starts=[41.0, 99.0], now=100.0)
    assert recent.code is Code.START_RATE_EXCEEDED


def test_a_full_endpoint_tells_a_user_nothing_about_others() -> None:
    told = load_refusal(running("bob-planted", "carol-planted"), "alice", config(max_user_endpoints=2)).for_user()
    assert "planted" not in told
    assert "2" not in told
