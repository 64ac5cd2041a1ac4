"""The guards see what a test leaves behind, say it, and clear it away."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from support import guards


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_GRACE_S", 0.1)


def test_a_process_that_is_left_is_named_and_killed() -> None:
    with pytest.raises(AssertionError, match="sleep 987650"), guards.nothing_left():
        child = subprocess.Popen(["sleep", "987650"])
    assert not Path(f"/proc/{child.pid}").exists()
    child.wait()


def test_a_zombie_is_left_too() -> None:
    with pytest.raises(AssertionError, match="processes"), guards.nothing_left():
        pid = os.posix_spawn("/bin/true", ["true"], {})
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_thread_that_is_left_is_named() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="left-over")
    with pytest.raises(AssertionError, match="left-over"), guards.nothing_left():
        thread.start()
    go.set()
    thread.join()


def test_what_was_there_before_is_not_blamed() -> None:
    with subprocess.Popen(["sleep", "987651"]) as child:
        with guards.nothing_left():
            pass
        child.kill()


def test_a_thread_that_is_just_ending_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_GRACE_S", 5.0)
    with guards.nothing_left():
        timer = threading.Timer(0.1, lambda: None)
        timer.start()


def test_environment_and_folder_are_put_back(tmp_path: Path) -> None:
    before = os.getcwd()

    def change() -> None:
        os.environ["LEFT_BEHIND"] = "1"
        os.chdir(tmp_path)

    with pytest.raises(AssertionError, match="environment or working folder"), guards.nothing_left():
        change()
    assert "LEFT_BEHIND" not in os.environ
    assert os.getcwd() == before
