"""Tables and JSON: the one place that decides how a command's answer looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Decorator: `--json`, handed to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer with JSON.")(function)


def print_json(value: object) -> None:
    """Print `value` as one JSON document."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "") -> None:
    """Print rows under column heads, aligned; `empty` instead where there are none."""
    if not rows:
        if empty:
            click.echo(empty)
        return
    cells = [[_cell(value) for value in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    """One line, printable: a table is also shown to root, about names that others chose."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
