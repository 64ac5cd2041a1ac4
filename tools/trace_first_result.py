"""Where the time of one result goes: each step of the way in milliseconds, for a first and for a next result.

    ./dev sandbox python tools/trace_first_result.py [--engine thread|process|parsl] [--rounds N]

Steps are noted by wrapped functions (tools/trace_hook), so each costs some 20 us more than in truth. With several
rounds the one with the median total is shown.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HOOK = Path(__file__).with_name("trace_hook")


@dataclass(frozen=True)
class Step:
    """One noted moment. `at_ms` counts from the submit."""

    at_ms: float
    pid: int
    label: str


def main(argv: list[str]) -> int:
    """Trace and print."""
    parser = argparse.ArgumentParser(prog="trace_first_result.py")
    parser.add_argument("--engine", default="thread", choices=("thread", "process", "parsl"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    file = Path("/home/trace.log")
    file.touch()
    file.chmod(0o666)
    os.environ["MEP_TRACE_FILE"] = str(file)
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(HOOK), os.environ.get("PYTHONPATH", "")) if p)
    from bench_rig import clear, rig
    from bench_rows import ENGINES

    with rig(["mep"]) as made:
        side = made.sides[0]
        firsts: list[list[Step]] = []
        nexts: list[list[Step]] = []
        for user in made.fresh_users(arguments.rounds):
            side.ask("call", user, function="add", arguments=[1, 1])  # the SDK is at work
            for kind in (firsts, nexts):
                file.write_text("")
                side.ask("call", user, function="add", arguments=[1, 1], options=ENGINES[arguments.engine])
                time.sleep(0.3)  # what comes after the result belongs to the picture too
                kind.append(_steps(file))
            clear([user])
        for title, taken in (("first result", firsts), ("next result", nexts)):
            _print(f"{title}, {arguments.engine} engine", sorted(taken, key=_total)[len(taken) // 2])
    return 0


def _steps(file: Path) -> list[Step]:
    """Return the moments in order, counted from the first submit."""
    lines = sorted((line.split(" ", 2) for line in file.read_text().splitlines()), key=lambda parts: int(parts[0]))
    begin = next((int(at) for at, _, label in lines if label == "> sdk: submit()"), int(lines[0][0]))
    return [Step((int(at) - begin) / 1e6, int(pid), label) for at, pid, label in lines]


def _total(steps: list[Step]) -> float:
    return max((s.at_ms for s in steps if s.label == "< sdk: future done"), default=0.0)


def _print(title: str, steps: list[Step]) -> None:
    print(f"\n{title}: {_total(steps):.1f} ms\n{'ms':>9} {'since last':>10}  {'pid':>6}  step")
    before = 0.0
    for step in steps:
        print(f"{step.at_ms:9.2f} {step.at_ms - before:10.2f}  {step.pid:6}  {step.label}")
        before = step.at_ms


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
