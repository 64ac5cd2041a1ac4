"""The token file under bad luck: many processes at once, a full or read-only home, a login that was replaced."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, InputError
from mep.base.secrets import Secret
from mep.sdk import credentials
from mep.sdk.credentials import find_authorizer
from mep.sdk.login_file import Login, login_path, read_login, remove_login, write_login

RELAY = "https://relay.example.org"
WRITERS, ROUNDS = 6, 60


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MEP_TOKEN", raising=False)


def _log_in_and_out(number: int, begin: multiprocessing.synchronize.Event) -> None:
    """Log in again and again; whoever's login is found must be whole."""
    begin.wait()
    for turn in range(ROUNDS):
        write_login(Login(RELAY, Secret(f"{number}-{turn}-" + "x" * 5000), f"user{number}"))
        found = read_login()
        assert found is None or found.token.reveal().endswith("x" * 5000)
        assert found is None or found.username == f"user{found.token.reveal()[0]}"
        if turn % 20 == 19:
            remove_login()


def test_many_processes_at_once_leave_one_whole_login() -> None:
    context = multiprocessing.get_context("fork")
    begin = context.Event()
    writers = [context.Process(target=_log_in_and_out, args=(number, begin)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    begin.set()
    for writer in writers:
        writer.join(30)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    write_login(Login(RELAY, Secret("last")))
    assert [path.name for path in login_path().parent.iterdir()] == ["credentials.json"]


def test_what_a_killed_process_of_our_number_left_is_no_obstacle() -> None:
    login_path().parent.mkdir()
    login_path().with_name(f"credentials.json.{os.getpid()}").write_text("half")
    write_login(Login(RELAY, Secret("t")))
    assert read_login() == Login(RELAY, Secret("t"))


def test_a_home_that_cannot_be_written_keeps_the_old_login_and_says_what_to_do() -> None:
    write_login(Login(RELAY, Secret("old")))
    place = str(login_path())
    program = (
        "import resource, signal\n"
        "from mep.base.errors import HostError\n"
        "from mep.base.secrets import Secret\n"
        "from mep.sdk.login_file import Login, write_login\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "try:\n"
        f"    write_login(Login({RELAY!r}, Secret('new')))\n"
        "except HostError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith(f"HOME_NOT_WRITABLE: {place} cannot be written")
    assert "MEP_TOKEN" in said
    assert read_login() == Login(RELAY, Secret("old"))
    assert [path.name for path in login_path().parent.iterdir()] == ["credentials.json"]


def test_a_login_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    for act in (remove_login, lambda: write_login(Login(RELAY, Secret("t")))):
        with pytest.raises(HostError, match="cannot be written") as caught:
            act()
        assert caught.value.code is Code.HOME_NOT_WRITABLE


def test_a_newer_login_is_taken_up_once_the_old_one_is_refused() -> None:
    write_login(Login(RELAY, Secret("old")))
    authorizer = find_authorizer(RELAY)
    assert not authorizer.handle_missing_authorization(), "there is no other"
    write_login(Login(RELAY, Secret("new")))
    assert authorizer.get_authorization_header() == "Bearer old"
    assert authorizer.handle_missing_authorization()
    assert authorizer.get_authorization_header() == "Bearer new"
    write_login(Login("https://other.example.org", Secret("foreign")))
    assert not authorizer.handle_missing_authorization()
    assert authorizer.get_authorization_header() == "Bearer new"


@pytest.mark.parametrize("state", ["closed", "none", "no terminal"])
def test_nobody_is_asked_where_standard_input_is_closed(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as stream:
        if state == "closed":
            stream.close()
        monkeypatch.setattr("sys.stdin", None if state == "none" else stream)
        monkeypatch.setenv("MEP_CLIENT_ID", "11111111-0000-4000-8000-000000000001")
        monkeypatch.setenv("HOME", str(login_path().parent))
        monkeypatch.delenv("MEP_CLIENT_SECRET", raising=False)
        assert not credentials.somebody_there()
        with pytest.raises(InputError, match="standard input is no terminal") as caught:
            find_authorizer("https://compute.api.globus.org")
        assert caught.value.code is Code.NOT_LOGGED_IN
