"""Forks: from one thread only, never back into the caller, each end told as it was."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mep.base.errors import HostError
from mep.base.exits import Exit
from mep.priv import clone


def ended(run: object) -> clone.Ended:
    child = clone.spawn(run)  # type: ignore[arg-type] # some of them do not return
    try:
        found = clone.reap(child.pidfd, block=True)
        assert found is not None
        return found
    finally:
        os.close(child.pidfd)


def wait_for_ever() -> int:
    time.sleep(1000)
    return 0


def fail() -> int:
    raise RuntimeError("boom")


def test_a_child_ends_with_what_it_returns() -> None:
    found = ended(lambda: 7)
    assert (found.status, found.signal, found.clean) == (7, 0, False)
    assert str(found) == "exit status 7"
    assert ended(lambda: 0).clean


def test_an_exception_in_a_child_ends_it_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    me = os.getpid()
    assert ended(fail).status == Exit.SOFTWARE
    assert os.getpid() == me
    assert "boom" in capfd.readouterr().err


def test_a_signal_is_named() -> None:
    assert str(ended(lambda: os.kill(os.getpid(), signal.SIGKILL))) == "killed by signal 9 (SIGKILL)"
    assert clone.signal_name(40) == "SIG40" or clone.signal_name(40).startswith("SIG")


def test_reaping_does_not_wait_unless_told() -> None:
    child = clone.spawn(wait_for_ever)
    assert clone.reap(child.pidfd) is None
    clone.kill(child.pidfd)
    found = clone.reap(child.pidfd, block=True)
    assert found is not None
    assert found.signal == signal.SIGKILL
    clone.kill(child.pidfd)  # a dead one is no error
    os.close(child.pidfd)


def test_a_process_with_two_threads_does_not_fork() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    try:
        with pytest.raises(HostError, match="must not fork"):
            clone.spawn(lambda: 0)
    finally:
        go_on.set()
        thread.join()


def test_a_child_has_default_signals_and_the_parent_keeps_its_own() -> None:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:

        def check() -> int:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            return 0 if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not mask else 1

        assert ended(check).clean
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        signal.signal(signal.SIGTERM, before)
