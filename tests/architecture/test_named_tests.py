"""Where a document promises that a test proves something, that test exists."""

from __future__ import annotations

import re

import pytest

from support.source import ROOT

_ROW = re.compile(r"^\| (\d+) \|.*\| ([^|]*) \|$", re.MULTILINE)
_NAME = re.compile(r"`(test_\w+)`")
LATER = {28, 29}  # of batch schedulers


def existing() -> set[str]:
    """Return the names of all test functions."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("page", ["security.md", "failure-modes.md"])
def test_each_test_that_a_page_names_exists(page: str) -> None:
    named = set(_NAME.findall((ROOT / "docs/admin" / page).read_text()))
    assert len(named) > 20
    assert named - existing() == set()


def test_each_failure_mode_has_its_tests() -> None:
    text = (ROOT / "docs/admin/failure-modes.md").read_text()
    rows = _ROW.findall(text)
    assert [int(number) for number, _ in rows] == list(range(1, 33))
    assert {int(number) for number, tests in rows if not _NAME.search(tests)} == LATER
    inputs = [line for line in text.partition("## Bad input")[2].splitlines() if line.startswith("| ")][1:]
    assert len(inputs) > 15
    assert [line for line in inputs if not _NAME.search(line)] == []


def test_each_defence_names_its_test() -> None:
    text = (ROOT / "docs/admin/security.md").read_text()
    defended = text.partition("## What is defended")[2].partition("## What is not defended")[0]
    rows = [line for line in defended.splitlines() if line.startswith("| ") and not line.startswith("| against")]
    assert len(rows) > 20
    assert [row for row in rows if not _NAME.search(row)] == []
