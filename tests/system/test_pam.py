"""PAM decides about accounts, sets limits and environment, and never asks a question."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_OPEN = """
import json, resource, sys
from mep.base.errors import MepError
from mep.priv.pam import Pam
service, user, confdir = sys.argv[1:]
credentials = []
try:
    pam = Pam(service, user, confdir=confdir)
    setcred = pam._libpam.pam_setcred
    pam._libpam.pam_setcred = lambda handle, flags: credentials.append(flags & 0xFF) or setcred(handle, flags)
    environment = pam.open()
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found = {"env": environment, "nofile": nofile, "failed": pam.close()}
except MepError as error:
    found = {"code": error.code, "user": error.user_text, "admin": error.admin_text}
print(json.dumps(found | {"credentials": credentials}))
"""

_ASK = """
import ctypes, sys
from mep.priv.pam import Pam, _Message, _Response
pam = Pam("mep", "alice", confdir=sys.argv[1])
for style in map(int, sys.argv[2:]):
    message = ctypes.pointer(_Message(style, b"Password: "))
    answer = ctypes.POINTER(_Response)()
    print(pam._conversation.converse(1, ctypes.pointer(message), ctypes.pointer(answer), None), bool(answer))
"""
ESTABLISHED, DELETED = 2, 4


class Stack:
    """PAM services in a folder of the test's own: the host's /etc/pam.d is neither read nor changed."""

    def __init__(self, confdir: Path) -> None:
        self.confdir = confdir

    def write(self, service: str, *lines: str) -> None:
        (self.confdir / service).write_text("\n".join(lines) + "\n")

    def open(self, service: str, user: str = "alice") -> dict[str, object]:
        answer: dict[str, object] = json.loads(self.run(_OPEN, service, user, str(self.confdir)))
        return answer

    @staticmethod
    def run(program: str, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    (tmp_path / "other").write_text("account required pam_deny.so\nsession required pam_deny.so\n")
    return Stack(tmp_path)


def test_an_open_session_has_the_modules_environment_and_limits(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "env.conf").write_text("SCRATCH DEFAULT=/scratch/alice\n")
    (tmp_path / "limits.conf").write_text("* hard nofile 300\n")
    stack.write(
        "mep",
        "auth required pam_rootok.so",
        "account required pam_unix.so",
        f"session required pam_env.so conffile={tmp_path}/env.conf readenv=0",
        f"session required pam_limits.so conf={tmp_path}/limits.conf",
    )
    found = stack.open("mep")
    del found["credentials"]
    assert found == {"env": {"SCRATCH": "/scratch/alice"}, "nofile": 300, "failed": []}


def test_credentials_are_established_before_the_session_and_deleted_after(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "env.conf").write_text("TICKET DEFAULT=/run/ticket\n")
    stack.write(
        "mep",
        "auth required pam_rootok.so",
        f"auth required pam_env.so conffile={tmp_path}/env.conf readenv=0",
        "account required pam_permit.so",
        "session required pam_permit.so",
    )
    found = stack.open("mep")
    assert found["env"] == {"TICKET": "/run/ticket"}, "pam_env sets it with the credentials"
    assert found["credentials"] == [ESTABLISHED, DELETED]


def test_a_module_that_asks_is_told_at_once_that_nobody_answers(stack: Stack) -> None:
    stack.write("mep", "account required pam_permit.so")
    echo_off, echo_on, error, info = "1234"
    said = stack.run(_ASK, str(stack.confdir), echo_off, echo_on, error, info).splitlines()
    assert said == ["19 False", "19 False", "0 True", "0 True"]


def test_an_aged_password_is_refused_and_nobody_is_asked_for_a_new_one(stack: Stack) -> None:
    stack.write("mep", "account required pam_unix.so", "session required pam_permit.so")
    subprocess.run(["chage", "--lastday", "0", "bob"], check=True)
    try:
        answer = stack.open("mep", "bob")
    finally:
        subprocess.run(["chage", "--lastday", "-1", "bob"], check=True)
    assert answer["code"] == "PAM_REFUSED"
    assert "[12]" in str(answer["admin"])


def test_nologin_refuses_with_its_text_for_the_administrator_only(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "nologin").write_text("maintenance until noon\n")
    stack.write(
        "mep", f"account required pam_nologin.so file={tmp_path}/nologin", "session required pam_permit.so"
    )
    answer = stack.open("mep")
    assert answer["code"] == "PAM_REFUSED"
    assert "maintenance until noon" in str(answer["admin"])
    assert "alice" not in str(answer["user"])
    assert "maintenance" not in str(answer["user"])


def test_a_service_without_a_file_is_refused_not_answered_by_other(stack: Stack) -> None:
    (stack.confdir / "other").write_text("account required pam_permit.so\nsession required pam_permit.so\n")
    answer = stack.open("typo")
    assert answer["code"] == "PAM_REFUSED"
    assert "no PAM service 'typo'" in str(answer["admin"])


@pytest.mark.parametrize("service", ["../mep", "", ".."])
def test_a_service_name_is_no_path(stack: Stack, service: str) -> None:
    assert stack.open(service)["code"] == "PAM_REFUSED"


def test_a_failed_session_gives_the_credentials_back_and_refuses(stack: Stack) -> None:
    stack.write(
        "mep", "auth required pam_rootok.so", "account required pam_permit.so", "session required pam_deny.so"
    )
    answer = stack.open("mep")
    assert answer["code"] == "PAM_REFUSED"
    assert "open_session" in str(answer["admin"])
    assert answer["credentials"] == [ESTABLISHED, DELETED]
