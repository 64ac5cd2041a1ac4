"""The list of mutations in tests/mutations: what is taken away from the product, and which tests notice."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path("tests/mutations")
_EDIT = {"file", "old", "new"}
_KEYS = _EDIT | {"name", "tests", "also"}


class BadListError(Exception):
    """A file of the list cannot be read as one; its text says which and why."""


@dataclass(frozen=True)
class Edit:
    """One place in the tree: `old` stands there once, `new` is put in its stead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """One mechanism without which each of `tests` fails. `room`: the file of the list that names it."""

    name: str
    room: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


def read(root: Path) -> list[Mutation]:
    """Return every entry of the list of the tree at `root`."""
    return [entry for path in sorted((root / FOLDER).glob("*.toml")) for entry in _of_file(path)]


def _of_file(path: Path) -> list[Mutation]:
    try:
        document = tomllib.loads(path.read_text())
    except ValueError as error:
        raise BadListError(f"{path.name}: {error}") from None
    if unknown := document.keys() - {"mutation"}:
        raise BadListError(f"{path.name}: unknown keys {sorted(unknown)}")
    return [_entry(path, table) for table in document.get("mutation", [])]


def _entry(path: Path, table: dict[str, Any]) -> Mutation:
    where = f"{path.name}: {table.get('name', '(without a name)')}"
    if wrong := (table.keys() ^ _KEYS) - {"also"}:
        raise BadListError(f"{where}: missing or unknown keys {sorted(wrong)}")
    tables = [{key: table[key] for key in _EDIT}, *table.get("also", [])]
    if any(edit.keys() != _EDIT for edit in tables):
        raise BadListError(f"{where}: each of `also` has {sorted(_EDIT)}")
    if not table["tests"]:
        raise BadListError(f"{where}: no tests")
    return Mutation(table["name"], path.stem, tuple(Edit(**edit) for edit in tables), tuple(table["tests"]))


def faults(root: Path, entries: list[Mutation]) -> list[str]:
    """Return what is wrong with the entries, as the tree at `root` is now; each line names its entry."""
    counts = Counter(entry.name for entry in entries)
    found = [f"{name}: {count} entries of this name" for name, count in counts.items() if count > 1]
    for entry in entries:
        found += [f"{entry.room}: {entry.name}: {fault}" for fault in _faults_of(root, entry)]
    return found


def _faults_of(root: Path, entry: Mutation) -> list[str]:
    try:
        texts = mutated(root, entry)
    except ValueError as error:
        return [str(error)]
    found = [fault for file, text in texts.items() if (fault := _syntax(file, text))]
    return found + [f"there is no test {test}" for test in entry.tests if not _has_test(root, test)]


def mutated(root: Path, entry: Mutation) -> dict[str, str]:
    """Return the texts of the files that `entry` changes; ValueError where it no longer fits the tree."""
    texts: dict[str, str] = {}
    for edit in entry.edits:
        if not (root / edit.file).is_file():
            raise ValueError(f"there is no {edit.file}")
        text = texts.get(edit.file) or (root / edit.file).read_text()
        if (count := text.count(edit.old)) != 1:
            raise ValueError(f"`old` occurs {count} times in {edit.file}, not once")
        if edit.old == edit.new:
            raise ValueError(f"`new` is `old` in {edit.file}")
        texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def _syntax(file: str, text: str) -> str:
    if not file.endswith(".py"):
        return ""
    try:
        compile(text, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{file} does not compile when it is changed: {error}"
    return ""


def _has_test(root: Path, test: str) -> bool:
    """Whether path::function or path::Class::function, with or without a [case], is in the tree."""
    path, *names = test.partition("[")[0].split("::")
    file = root / path
    if not names or not path.startswith("tests/") or not file.is_file():
        return False
    return "::".join(names) in _tests_of(file, file.stat().st_mtime_ns)


@cache
def _tests_of(file: Path, _changed: int) -> frozenset[str]:
    """Return function and Class::function of what is in the file."""
    functions, found = (ast.FunctionDef, ast.AsyncFunctionDef), set[str]()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, functions):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, functions)}
    return frozenset(found)
