"""Which cgroups are a session of logind's, made for one user: only what is in such a one is killed at the end."""

from __future__ import annotations

import pytest

from mep.priv.pamsession import is_session_scope, open_scope

ROOT = "/sys/fs/cgroup"


@pytest.mark.parametrize("name", ["session-3.scope", "session-c12.scope"])
@pytest.mark.parametrize("mount", ["", "/unified"])
def test_a_session_scope_of_the_user_is_one(mount: str, name: str) -> None:
    assert is_session_scope(f"{ROOT}{mount}/user.slice/user-20001.slice/{name}", 20001)


@pytest.mark.parametrize(
    "path",
    [
        "/user.slice/user-20002.slice/session-3.scope",
        "/user.slice/user-120001.slice/session-3.scope",
        "/user.slice/user-20001.slice",
        "/user.slice/user-20001.slice/user@20001.service",
        "/user.slice/user-20001.slice/session-3.scope/mep-site/uep-1/session",
        "/user.slice/user-20001.slice/session-.scope",
        "/system.slice/sshd.service",
        "/",
    ],
)
def test_nothing_else_is(path: str) -> None:
    assert not is_session_scope(f"{ROOT}{path}", 20001)


def test_who_was_moved_nowhere_or_has_ended_has_no_scope() -> None:
    assert open_scope("self", 20001) == -1
    assert open_scope(2**22 + 1, 20001) == -1  # above any pid
