"""The user guide's examples are correct Python, name things that exist, and run where no relay is needed."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

from support.source import ROOT

GUIDE = (ROOT / "docs" / "user.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_imported_name_exists(example: str) -> None:
    for node in ast.walk(ast.parse(example)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mep"):
            module = importlib.import_module(node.module)
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_fakes_example_runs() -> None:
    example = next(e for e in EXAMPLES if "FakeExecutor" in e)
    exec(compile(example, "docs/user.md", "exec"), {})


def test_every_exception_it_explains_is_at_the_top_of_mep() -> None:
    import mep

    named = re.findall(r"^\| `(\w+)` \|", GUIDE.partition("exception (from `mep`)")[2], re.MULTILINE)
    assert len(named) == 5
    assert set(named) <= set(mep.__all__)
