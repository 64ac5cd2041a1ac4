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
try:
    pam = Pam(service, user, confdir=confdir)
    environment = pam.open()
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    print(json.dumps({"env": environment, "nofile": nofile, "failed": pam.close()}))
except MepError as error:
    print(json.dumps({"code": error.code, "user": error.user_text, "admin": error.admin_text}))
"""


class Stack:
    """PAM services in a folder of the test's own: the host's /etc/pam.d is neither read nor changed."""

    def __init__(self, confdir: Path) -> None:
        self.confdir = confdir

    def write(self, service: str, *lines: str) -> None:
        (self.confdir / service).write_text("\n".join(lines) + "\n")

    def open(self, service: str, user: str = "alice") -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, service, user, str(self.confdir)],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        answer: dict[str, object] = json.loads(done.stdout)
        return answer


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
    assert stack.open("mep") == {"env": {"SCRATCH": "/scratch/alice"}, "nofile": 300, "failed": []}


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
