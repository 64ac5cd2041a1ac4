"""The drop proves itself: take any step of it away, and the process refuses to go on."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyprctl
import pytest

from mep.base.errors import MepError
from mep.priv import caps, clone
from mep.priv.become import Terms, User, become_user

REAL_SETRESUID = os.setresuid


def alice() -> User:
    entry = pwd.getpwnam("alice")
    return User("alice", entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist("alice", entry.pw_gid)), entry.pw_dir)


def outcome(
    break_it: Callable[[], object] | None = None, user: User | None = None, **terms: Any
) -> dict[str, Any]:
    """Become `user` in a child, after `break_it` has damaged the mechanism there; return what came of it."""
    readable, writable = os.pipe()
    parent = os.getpid()

    def run() -> int:
        if break_it is not None:
            break_it()
        try:
            become_user(
                user or alice(), Terms(parent_pid=parent, environment={"A": "b"}, keep_fds=[writable], **terms)
            )
            found: dict[str, Any] = {
                "code": "",
                "uids": os.getresuid(),
                "cwd": os.getcwd(),
                "env": dict(os.environ),
                "death_signal": pyprctl.get_pdeathsig(),
                "limits": [resource.getrlimit(kind) for kind in terms.get("rlimits", ())],
            }
        except MepError as error:
            found = {"code": error.code, "why": error.admin_text}
        os.write(writable, json.dumps(found).encode())
        return 0

    child = clone.spawn(run)
    os.close(writable)
    said = os.read(readable, 10_000)
    clone.reap(child.pidfd, block=True)
    os.close(child.pidfd)
    os.close(readable)
    return dict(json.loads(said)) if said else {}


def nothing(*_: Any) -> None:
    """Stands in for a step that does not happen."""


def keep_saved_uid(real: int, effective: int, _saved: int) -> None:
    REAL_SETRESUID(real, effective, 0)


def misread_who_we_are() -> None:
    os.setresuid = keep_saved_uid
    real = caps.read_credentials
    uid = alice().uid
    caps.read_credentials = lambda: replace(real(), uids=(uid,) * 4)


def keep_capabilities() -> None:
    pyprctl.set_keepcaps(True)
    caps.drop_all = nothing


BREAKS: dict[str, tuple[Callable[[], object], str]] = {
    "groups are not set": (lambda: setattr(os, "setgroups", nothing), "groups are"),
    "gid is not set": (lambda: setattr(os, "setresgid", nothing), "ids are"),
    "uid is not set": (lambda: setattr(os, "setresuid", nothing), "ids are"),
    "root stays the saved uid": (lambda: setattr(os, "setresuid", keep_saved_uid), "ids are"),
    "root stays the saved uid, and nobody sees it": (misread_who_we_are, "a way back to root"),
    "the bounding set stays": (lambda: setattr(caps, "drop_bounding_set", nothing), "bounding set"),
    "programs may gain privileges": (
        lambda: setattr(pyprctl, "set_no_new_privs", nothing),
        "no_new_privs",
    ),
    "capabilities stay": (keep_capabilities, "capabilities are"),
    "nobody can tell": (
        lambda: setattr(caps, "open", lambda *_: (_ for _ in ()).throw(OSError("no /proc")), *()),
        "does not say who",
    ),
}


def test_it_works() -> None:
    found = outcome()
    wanted = {"code": "", "uids": [20001] * 3, "cwd": "/home/alice", "env": {"A": "b"}}
    assert found == wanted | {"death_signal": signal.SIGKILL, "limits": []}


def test_capabilities_are_dropped_even_where_the_kernel_would_keep_them() -> None:
    assert outcome(lambda: pyprctl.set_keepcaps(True))["code"] == ""


@pytest.mark.parametrize("case", BREAKS)
def test_without_any_one_step_it_refuses(case: str) -> None:
    break_it, why = BREAKS[case]
    found = outcome(break_it)
    assert found["code"] == "PRIVILEGE_NOT_DROPPED"
    assert why in found["why"]


def test_root_is_no_user() -> None:
    found = outcome(user=replace(alice(), uid=0))
    assert (found["code"], "root is not a user" in found["why"]) == ("PRIVILEGE_NOT_DROPPED", True)


def test_a_home_that_cannot_be_entered_is_left_alone() -> None:
    assert outcome(user=replace(alice(), home="/root"))["cwd"] == "/"
    assert outcome(user=replace(alice(), home="/no/such/home"))["cwd"] == "/"


def test_a_process_whose_parent_died_meanwhile_ends_at_once() -> None:
    assert outcome(lambda: setattr(os, "getppid", lambda: 1)) == {}


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        ((400, 400), 300, [300, 300]),
        ((100, 400), 300, [100, 300]),
        ((100, 200), 300, [100, 200]),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 300, [300, 300]),
        ((100, resource.RLIM_INFINITY), 300, [100, 300]),
    ],
)
def test_limits_are_lowered_and_never_raised(before: tuple[int, int], wanted: int, after: list[int]) -> None:
    kind = resource.RLIMIT_CPU  # endless by default, and in seconds
    found = outcome(lambda: resource.setrlimit(kind, before), rlimits={kind: wanted})
    assert (found["code"], found["limits"]) == ("", [after])
