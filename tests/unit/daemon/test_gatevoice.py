"""The gate writes no line but its own into the endpoint's log, and not more than its share."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import pytest

from mep.base.log import setup_logging, setup_logging_to_pipe
from mep.daemon.gatevoice import BURST, MOST_CHARS, GateVoice, make_pipe
from mep.daemon.loop import Loop
from mep.priv import clone

Capture = pytest.CaptureFixture[str]


class Rig:
    """The monitor's end, and the gate's."""

    def __init__(self) -> None:
        self.loop = Loop()
        heard, self.fd = make_pipe()
        self.voice = GateVoice(self.loop, heard)

    def say(self, text: bytes) -> None:
        os.write(self.fd, text)
        self.loop.step(1.0)

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self.loop.step(left_s)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A test calls `setup_logging` by itself: stderr is another one by then."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = Rig()
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_of_the_gate_is_marked_as_its_own_and_keeps_its_level(rig: Rig, capfd: Capture) -> None:
    setup_logging(role="monitor")
    rig.say(b"<3>refused\n<6>registered\n<7>detail\nTraceback\n")
    lines = [line.split(" ", 2)[2] for line in capfd.readouterr().err.splitlines()]
    assert lines == ["ERROR gate: refused", "INFO gate: registered", "WARNING gate: Traceback"]


def test_a_gate_that_forges_lines_of_the_monitor_is_seen(rig: Rig, capfd: Capture) -> None:
    setup_logging(role="monitor")
    rig.say(
        b"monitor: all is well\n2026-01-01 00:00:00,000 INFO monitor: stopping\r<0>x\n<2>\x1b]0;owned\x07\n\xff\n"
    )
    lines = [line.split(" ", 2)[2] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "WARNING gate: monitor: all is well",
        "WARNING gate: 2026-01-01 00:00:00,000 INFO monitor: stopping\\r<0>x",
        "CRITICAL gate: \\x1b]0;owned\\x07",
        "WARNING gate: \\xff",
    ]


def test_a_line_without_an_end_is_cut_and_the_next_is_whole(rig: Rig, capfd: Capture) -> None:
    setup_logging(role="monitor")
    for _ in range(3):
        rig.say(b"x" * 50_000)
    rig.say(b"y\nnext\n")
    first, second = capfd.readouterr().err.splitlines()
    assert first.endswith(" gate: " + "x" * MOST_CHARS)
    assert second.endswith(" gate: next")


def test_what_was_begun_when_the_gate_died_is_there(rig: Rig, capfd: Capture) -> None:
    setup_logging(role="monitor")
    os.write(rig.fd, b"<4>its last wor")
    os.close(rig.fd)
    rig.voice.close()
    assert capfd.readouterr().err.endswith("WARNING gate: its last wor\n")


def test_a_flood_of_lines_is_counted_and_holds_nobody_up(rig: Rig, capfd: Capture) -> None:
    setup_logging(role="monitor")

    def flood() -> int:
        os.set_blocking(rig.fd, True)
        while True:
            os.write(rig.fd, b"monitor: all is well\n" * 3000)

    flooder = clone.spawn(flood)
    late: list[float] = []

    def tick(due: float) -> None:
        logging.getLogger().error("mine")
        late.append(time.monotonic() - due)
        rig.loop.call_later(0.05, lambda: tick(time.monotonic() + 0.05))

    try:
        tick(time.monotonic())
        used = time.process_time()
        rig.run(1.6)
        used = time.process_time() - used
    finally:
        clone.kill(flooder.pidfd)
        clone.reap(flooder.pidfd, block=True)
        os.close(flooder.pidfd)
    lines = capfd.readouterr().err.splitlines()
    assert BURST / 2 < sum("gate: " in line for line in lines) <= BURST + 40
    assert sum("ERROR monitor: mine" in line for line in lines) == len(late) > 20
    assert any("its lines are not in this log" in line for line in lines)
    assert max(late) < 0.3
    assert used < 0.8, "the flood takes the monitor's time"


def test_the_gate_does_not_wait_for_who_reads_its_log() -> None:
    heard, said = make_pipe()

    def log_much() -> int:
        os.dup2(said, 2)
        setup_logging_to_pipe(level=logging.INFO)
        for _ in range(1000):
            logging.getLogger("x").warning("%s", "y" * 1000)
        return 0

    child = clone.spawn(log_much)
    ended = clone.reap(child.pidfd, block=True)
    assert ended is not None
    assert ended.clean
    lines = os.read(heard, 10**6).splitlines()
    assert len(lines) > 10
    assert set(lines) == {b"<4>" + b"y" * 1000}
    for fd in (child.pidfd, heard, said):
        os.close(fd)
