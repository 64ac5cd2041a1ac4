"""docs/admin/interop.md claims a test for each item of the protocol's checklists: each one exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/admin/interop.md").read_text()
ITEMS = {"relay": 12, "endpoint": 7, "SDK": 7}
ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_every_item_has_a_row() -> None:
    for name, count in ITEMS.items():
        section = PAGE.split(f"### A compatible {name}\n")[1].split("\n#")[0]
        numbers = re.findall(r"^\| (\d+) \|", section, re.MULTILINE)
        assert numbers == [str(n) for n in range(1, count + 1)]


def test_every_row_names_a_test() -> None:
    assert len(ROWS) == sum(ITEMS.values())
    for number, item, proof in ROWS:
        assert "::test_" in proof, f"{number} {item} is claimed without a test"


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_every_named_test_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
