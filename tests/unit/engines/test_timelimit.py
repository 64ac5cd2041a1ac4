"""A limit on the time of a call, in the main thread and in others."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from mep.engines.timelimit import TaskTimeout, time_limit


def test_no_limit_costs_nothing() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0):
        assert signal.getsignal(signal.SIGALRM) is before


def test_the_main_thread_is_interrupted_even_in_a_system_call() -> None:
    began = time.monotonic()
    with pytest.raises(TaskTimeout), time_limit(0.05):
        time.sleep(5)
    assert time.monotonic() - began < 1


def test_afterwards_the_signal_is_as_before() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(5):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_another_thread_is_interrupted_at_the_next_bytecode() -> None:
    seen: list[type[BaseException]] = []

    def works() -> None:
        try:
            with time_limit(0.05):
                end = time.monotonic() + 5
                while time.monotonic() < end:
                    pass
        except TaskTimeout as error:
            seen.append(type(error))

    thread = threading.Thread(target=works)
    thread.start()
    thread.join(5)
    assert seen == [TaskTimeout]
