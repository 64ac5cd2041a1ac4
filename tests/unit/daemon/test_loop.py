"""The monitor's loop: fds, timers, signals; an error in one callback harms no other."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from mep.daemon.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    yield Loop()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_ready_fds_call_back_until_unwatched(loop: Loop) -> None:
    readable, writable = os.pipe()
    seen: list[bytes] = []
    loop.watch(readable, lambda: seen.append(os.read(readable, 10)))
    os.write(writable, b"one")
    loop.step(1.0)
    loop.unwatch(readable)
    loop.unwatch(readable)
    os.write(writable, b"two")
    loop.step(0.01)
    assert seen == [b"one"]
    os.close(readable)
    os.close(writable)


def test_a_callback_may_forget_another_that_is_ready(loop: Loop) -> None:
    pairs = [os.pipe(), os.pipe()]
    called: list[int] = []

    def forget_all() -> None:
        called.append(1)
        for readable, _ in pairs:
            loop.unwatch(readable)

    for readable, writable in pairs:
        loop.watch(readable, forget_all)
        os.write(writable, b"x")
    loop.step(1.0)
    assert called == [1]
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def test_timers_come_in_order_and_can_be_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    loop.call_later(0.02, lambda: seen.append("late"))
    loop.call_later(0.0, lambda: seen.append("now"))
    loop.call_later(0.01, lambda: seen.append("never")).cancel()
    until = time.monotonic() + 2
    while "late" not in seen and time.monotonic() < until:
        loop.step(0.1)
    assert seen == ["now", "late"]


def test_a_signal_becomes_a_callback_and_stop_ends_the_run(loop: Loop) -> None:
    loop.catch_signals({signal.SIGUSR1: loop.stop})
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run()


def test_an_error_is_logged_and_the_others_are_served(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    loop.call_later(0.0, fail)
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert "boom" in caplog.text


def test_an_idle_loop_sleeps(loop: Loop) -> None:
    before = time.process_time()
    loop.call_later(0.3, loop.stop)
    loop.run()
    assert time.process_time() - before < 0.05
