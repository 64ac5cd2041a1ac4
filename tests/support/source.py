"""The project's own source as syntax trees, for tests of house rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Module:
    """A Python file. `name` is its path in the checkout."""

    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Return the folder below src/mep ("" for files beside the rooms and outside src)."""
        parts = self.name.split("/")
        return parts[2] if parts[:2] == ["src", "mep"] and len(parts) > 3 else ""


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Return the Python files below `folders` of the checkout."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(
        Module(str(path.relative_to(ROOT)), (text := path.read_text()), ast.parse(text)) for path in paths
    )


def calls(module: Module) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything that is called or handed on by name, as it is written."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            dotted = _dotted(node)
            if dotted:
                yield dotted, node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.lineno


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of every import, those inside functions included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Yield (qualified name, lines) of every function, decorators and docstring left out of the count."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                body = child.body[1:] if ast.get_docstring(child) and len(child.body) > 1 else child.body
                yield name, (child.end_lineno or child.lineno) - body[0].lineno + 1
                yield from walk(child, f"{name}.")
            else:
                inner = f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix
                yield from walk(child, inner)

    yield from walk(module.tree, "")


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
