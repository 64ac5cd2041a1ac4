"""One event is one line, whatever a user put into it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from mep.base.log import setup_logging, stderr_is_journal


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_line_breaks_cannot_forge_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(role="gate")
    logging.getLogger("x").warning("refused: %s", "a\nERROR monitor: forged\r\nb")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "WARNING gate: refused: a\\nERROR monitor: forged\\r\\nb" in lines[0]


def test_nothing_in_a_line_steers_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(role="monitor")
    logging.getLogger("x").warning("refused: %s", "\x1b]0;owned\x07 \x85 \u2028 \u202e \ud800 é")
    line = capfd.readouterr().err
    assert line.endswith("refused: \\x1b]0;owned\\x07 \\x85 \\u2028 \\u202e \\ud800 é\n")


def test_a_traceback_stays_on_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    setup_logging(role="gate")
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("x").exception("unexpected")
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_priorities_go_to_the_journal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    if not stderr_is_journal():
        pytest.skip("stderr is not a file of its own here")
    setup_logging(role="monitor")
    logging.getLogger("x").error("broken")
    assert capfd.readouterr().err == "<3>monitor: broken\n"


def test_a_stale_journal_variable_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert not stderr_is_journal()
