"""./dev bench: ours against stock, same relay, same run. One JSON line per row, then a table.

    ./dev bench [--quick] [--only ROW[,ROW]] [--no-stock] [--json] [--realtime]

Runs in the sandbox of throw-away users (tools/sandbox.py), where everything it starts ends with it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import bench_probe
from bench_rig import rig
from bench_rows import QUICK, ROWS, Repeats, Row


@dataclass
class Result:
    """A row's values by side; `trouble` where it could not be measured."""

    row: Row
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    trouble: str = ""

    @property
    def met(self) -> bool | None:
        """Whether our value reaches the goal; None where there is no goal or no value."""
        value = self.values.get("mep", {}).get(self.row.headline)
        if self.row.goal is None or value is None:
            return None
        return bool(value >= -self.row.goal if self.row.goal < 0 else value <= self.row.goal)

    def line(self) -> str:
        """Return the row as one JSON line."""
        facts = {"row": self.row.name, "what": self.row.what, "unit": self.row.unit, "goal": self.row.goal}
        return json.dumps({**facts, "met": self.met, "trouble": self.trouble, **_rounded(self.values)})


def main(argv: list[str]) -> int:
    """Measure what was asked for; 1 if a row could not be measured or misses its goal."""
    arguments = _parse(argv)
    if not os.environ.get("MEP_SANDBOX"):
        print("bench: run it as `./dev bench`: it needs the sandbox of throw-away users", file=sys.stderr)
        return 2
    wanted = arguments.only.split(",") if arguments.only else [row.name for row in ROWS]
    kinds = ["mep"] if arguments.no_stock else ["mep", "stock"]
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # all that is started here inherits it
    description = bench_probe.machine() | {"realtime": arguments.realtime}
    print(json.dumps({"machine": description}), flush=True)
    results = []
    with rig(kinds) as made:
        for row in (row for row in ROWS if row.name in wanted):
            result = Result(row)
            try:
                result.values = row.measure(made, QUICK if arguments.quick else Repeats())
            except AssertionError as error:
                result.trouble = str(error)
            print(result.line(), flush=True)
            results.append(result)
    if not arguments.json:
        _print_table(description, results)
    return 1 if any(r.trouble or r.met is False for r in results) else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="./dev bench", description="Rows: " + ", ".join(names))
    parser.add_argument("--quick", action="store_true", help="fewer repeats: to see whether it works")
    parser.add_argument("--only", metavar="ROW[,ROW]", default="", help="measure these rows alone")
    parser.add_argument("--no-stock", action="store_true", help="measure ours alone")
    parser.add_argument("--json", action="store_true", help="print the JSON lines and no table")
    parser.add_argument(
        "--realtime", action="store_true", help="take precedence over whatever else runs (both sides do)"
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.only.split(",") if name and name not in names]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; rows: {', '.join(names)}")
    return arguments


def _print_table(description: dict[str, Any], results: list[Result]) -> None:
    print(f"\n{time.strftime('%Y-%m-%d')}: " + ", ".join(f"{k} {v}" for k, v in description.items()))
    print(f"\n| {'':46} | {'mep':>10} | {'stock':>10} | {'goal':>10} | |")
    print(f"|{'-' * 48}|{'-' * 12}|{'-' * 12}|{'-' * 12}|---|")
    for result in results:
        row = result.row
        cells = [_cell(result.values.get(side, {}).get(row.headline), row.unit) for side in ("mep", "stock")]
        if "floor" in result.values:
            cells = [_cell(result.values["floor"][row.headline], row.unit), ""]
        goal = "" if row.goal is None else ("<= " if row.goal > 0 else ">= ") + _cell(abs(row.goal), row.unit)
        mark = {True: "met", False: "missed", None: ""}[result.met]
        print(f"| {row.what:46} | {cells[0]:>10} | {cells[1]:>10} | {goal:>10} | {result.trouble[:60] or mark} |")


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.3f}" if value < 10 and unit == "s" else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return f"{text} {unit}".strip()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
