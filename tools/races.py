"""Explore the model of all races around a user endpoint for as long as one likes: `./dev races MINUTES`.

First every two events in every situation at every distance (`--pairs`: all of them, however long it takes), then
random orders of up to eight events, with a seed that is printed; a tenth of the time goes to hypothesis, which
looks for a smallest example. What is found is printed as an order, which `--order` repeats.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import devenv

if TYPE_CHECKING:
    from support.raceorders import Order
    from support.raceworld import World

ROOT = Path(__file__).resolve().parent.parent
MACHINE = ["tests/integration/test_races.py", "-k", "test_any_order_at_any_time"]

_PAIRS_SHARE, _HYPOTHESIS_SHARE = 0.5, 0.1  # of the time
_EXAMPLES_A_MINUTE = 1000
_MOST_FINDINGS = 5


def start(environment: devenv.Environment, argv: list[str]) -> int:
    """Run `main` in the environment."""
    command = [str(environment.python), __file__, *argv]
    return subprocess.run(command, check=False, env=environment.variables()).returncode


def main(argv: list[str]) -> int:
    """Return 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="./dev races", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the random orders")
    parser.add_argument("--pairs", action="store_true", help="every pair at every distance, and nothing else")
    parser.add_argument("--order", metavar="TEXT", help="this order alone, with its story")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    if given.order:
        return tell(given.order)
    if given.share:
        number, _, total = given.share.partition("/")
        return explore_share(given, int(number), int(total))
    print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
    count = os.cpu_count() or 1
    arguments = [str(given.minutes), "--seed", str(given.seed), *(["--pairs"] if given.pairs else [])]
    shares = [
        subprocess.Popen([sys.executable, __file__, *arguments, "--share", f"{number}/{count}"])
        for number in range(count)
    ]
    found = sum([share.wait() != 0 for share in shares])
    if not given.pairs:
        found += by_hypothesis(given.minutes * _HYPOTHESIS_SHARE)
    print("nothing found" if not found else "FOUND something: see above")
    return min(found, 1)


def explore_share(given: argparse.Namespace, number: int, total: int) -> int:
    """Be one of `total` processes: explore every so-manyth order, until the time is over."""
    from support.raceorders import all_pairs, any_walk

    began = time.monotonic()
    pairs = list(itertools.islice(all_pairs(), number, None, total))
    chance = random.Random(f"{given.seed}/{number}")
    seconds = given.minutes * 60
    if given.pairs:
        return run(pairs, until=float("inf"), what=f"pairs {number}")
    chance.shuffle(pairs)  # the time may be over before the end
    found = run(pairs, until=began + seconds * _PAIRS_SHARE, what=f"pairs, process {number}")
    walks = (any_walk(chance) for _ in itertools.count())
    end = began + seconds * (1 - _HYPOTHESIS_SHARE)
    return min(found + run(walks, until=end, what=f"random orders, process {number}"), 1)


def run(orders: Iterable[Order], *, until: float, what: str) -> int:
    """Explore the orders; return how many ended badly."""
    from support.raceorders import explore

    count = found = 0
    with worlds() as make:
        for order in orders:
            if time.monotonic() > until or found == _MOST_FINDINGS:
                break
            try:
                explore(make, order)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the others go on
                found += 1
                print(f"\nFOUND  ./dev races --order '{order}'\n{type(error).__name__}: {error}", flush=True)
            count += 1
    print(f"{what}: {count} orders, {found} findings", flush=True)
    return found


def tell(text: str) -> int:
    """Let one order happen, and print what did."""
    from support.raceorders import Order, explore

    try:
        order = Order.parse(text)
    except ValueError as error:
        sys.exit(f"races: {error}")
    with worlds() as make:
        made: list[World] = []

        def make_one() -> World:
            made.append(make())
            return made[0]

        try:
            explore(make_one, order)
        except AssertionError as error:
            print(error)
            return 1
        print("\n".join(made[0].log))
    return 0


@contextmanager
def worlds() -> Iterator[Callable[[], World]]:
    """Yield what makes a world, outside of any test."""
    import pytest

    from support.raceworld import model

    folder = Path(tempfile.mkdtemp(prefix="mep-races-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def make(build: Callable[[Path], World]) -> World:
        shutil.rmtree(folder / "world", ignore_errors=True)
        (folder / "world").mkdir()
        return build(folder / "world")

    try:
        with pytest.MonkeyPatch.context() as patch, model(patch) as build:
            yield lambda: make(build)
    finally:
        shutil.rmtree(folder)


def by_hypothesis(minutes: float) -> int:
    """Run the test's machine with as many examples as fit, by experience; return 1 if it fails."""
    env = {**os.environ, "MEP_RACES_EXAMPLES": str(max(int(minutes * _EXAMPLES_A_MINUTE), 60))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0", *MACHINE]
    return min(subprocess.run(command, cwd=ROOT, env=env, check=False).returncode, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
