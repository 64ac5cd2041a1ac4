"""A mechanism that is taken away without a test noticing is told; so is an entry that no longer fits the tree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import devenv
import mutationlist
import mutations

SOURCE = """def half(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number // 2


def twice(number: int) -> int:
    return number * 2
"""
TESTS = """import pytest
from mep.numbers import half, twice


@pytest.mark.parametrize("number", [2, 3])
def test_half(number):
    if number == 3:
        with pytest.raises(ValueError):
            half(number)


class TestTwice:
    def test_twice(self):
        assert twice(2) == 4

    def test_nothing(self):
        pass
"""
TEST = "tests/unit/test_numbers.py"


def entry(name: str, old: str, new: str, *tests: str, file: str = "src/mep/numbers.py") -> str:
    lines = ["[[mutation]]", f"name = {name!r}", f"file = {file!r}", f"old = {old!r}", f"new = {new!r}"]
    return "\n".join([*lines, f"tests = {list(tests)}", ""])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small checkout."""
    root = tmp_path / "tree"
    for folder in ("src/mep", "tests/unit", "tests/mutations", "tools"):
        (root / folder).mkdir(parents=True)
    (root / "src/mep/__init__.py").touch()
    (root / "src/mep/numbers.py").write_text(SOURCE)
    (root / TEST).write_text(TESTS)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ['--import-mode=importlib']\n")
    return root


def faults(root: Path, *entries: str) -> list[str]:
    (root / "tests/mutations/numbers.toml").write_text("\n".join(entries))
    return mutationlist.faults(root, mutationlist.read(root))


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (entry("a", "number % 2", "False", f"{TEST}::test_half"), ""),
        (entry("a", "number % 2", "False", f"{TEST}::TestTwice::test_twice"), ""),
        (entry("a", "number % 2", "False", f"{TEST}::test_half[3]"), ""),
        (entry("a", "number % 3", "False", f"{TEST}::test_half"), "`old` occurs 0 times"),
        (entry("a", "-> int", "", f"{TEST}::test_half"), "`old` occurs 2 times"),
        (entry("a", "number % 2", "number % 2", f"{TEST}::test_half"), "`new` is `old`"),
        (entry("a", "number % 2", "number %", f"{TEST}::test_half"), "does not compile"),
        (entry("a", "x", "y", f"{TEST}::test_half", file="src/mep/other.py"), "there is no src/mep/other.py"),
        (entry("a", "number % 2", "False", f"{TEST}::test_third"), f"there is no test {TEST}::test_third"),
        (entry("a", "number % 2", "False", TEST), f"there is no test {TEST}"),
    ],
)
def test_an_entry_that_does_not_fit_the_tree_is_told(tree: Path, made: str, fault: str) -> None:
    found = faults(tree, made)
    assert [fault in line for line in found] == ([True] if fault else [])


def test_two_entries_of_one_name_are_told(tree: Path) -> None:
    one = entry("a", "number % 2", "False", f"{TEST}::test_half")
    assert faults(tree, one, one) == ["a: 2 entries of this name"]


@pytest.mark.parametrize("made", ["[[mutation]]\nname = 'a'\n", "[[mutation", entry("a", "b", "c")])
def test_a_file_that_is_no_list_is_named(tree: Path, made: str) -> None:
    with pytest.raises(mutationlist.BadListError, match=r"numbers\.toml"):
        faults(tree, made)


def test_a_test_that_does_not_notice_is_told_and_the_tree_stays_as_it_is(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    also = "\n[[mutation.also]]\nfile = 'src/mep/numbers.py'\nold = '* 2'\nnew = '* 4'\n"
    listed = [
        entry("seen", "number % 2", "False", f"{TEST}::test_half"),
        entry("unseen", "// 2", "// 3", f"{TEST}::test_half", f"{TEST}::TestTwice::test_nothing"),
        entry("half-seen", "// 2", "// 3", f"{TEST}::TestTwice::test_twice", f"{TEST}::test_half") + also,
    ]
    assert not faults(tree, *listed)
    environment = devenv.Environment(tree, Path(sys.prefix).parent, tmp_path / "cache")
    assert mutations.main(["seen"], environment) == 0
    assert mutations.main([], environment) == 1
    words = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert words[0] == ["noticed", "numbers", "seen"]
    assert [line for line in words if line[0] in ("noticed", "SURVIVED", "green", "red")][1:] == [
        ["noticed", "numbers", "seen"],
        ["SURVIVED", "numbers", "unseen"],
        ["green", f"{TEST}::test_half"],
        ["green", f"{TEST}::TestTwice::test_nothing"],
        ["SURVIVED", "numbers", "half-seen"],
        ["green", f"{TEST}::test_half"],
    ]
    assert (tree / "src/mep/numbers.py").read_text() == SOURCE
    assert not list((tmp_path / "cache").iterdir())
