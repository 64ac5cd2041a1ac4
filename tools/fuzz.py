"""Fuzz every decoder and every route for as long as one likes: `./dev fuzz MINUTES`.

Half of the time goes to the decoders, each for its share, guided by coverage where atheris can be had; the other
half to what `./dev test` does in short: hypothesis and schemathesis, with more examples, others each time.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import devenv

if TYPE_CHECKING:
    from support.fuzz import Target

ROOT = Path(__file__).resolve().parent.parent
TESTS = ["tests/unit/fuzz", "tests/integration/test_rest_schema.py"]
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s+(\d+)|Done (\d+) runs")


def start(environment: devenv.Environment, argv: list[str]) -> int:
    """Run `main` in the environment, with atheris if there is a build of it for that Python."""
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "atheris"]
    if subprocess.run(pip, check=False, env=environment.variables()).returncode != 0:
        print("fuzz: no atheris for this Python: mutations without coverage")
    return subprocess.run(
        [str(environment.python), __file__, *argv], check=False, env=environment.variables()
    ).returncode


def main(argv: list[str]) -> int:
    """Return 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("--target", metavar="NAME", help="only this decoder")
    parser.add_argument("--decoders", action="store_true", help="the decoders alone, for all of the time")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one:
        return fuzz_one(given.one, given.minutes * 60)
    only_decoders = given.decoders or given.target
    found = fuzz_decoders(given.target, given.minutes * 60 * (1.0 if only_decoders else 0.5))
    if not only_decoders:
        found += fuzz_by_tests(given.minutes)
    print(f"{found} finding(s)")
    return min(found, 1)


def fuzz_decoders(only: str | None, seconds: float) -> int:
    """Give each decoder its share of the time, in a process of its own; return how many failed."""
    names = [target.name for target in targets() if only in (None, target.name)]
    if not names:
        sys.exit(f"no decoder {only!r}; there are: {', '.join(target.name for target in targets())}")
    found = total = 0
    share = seconds / len(names)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mep-fuzz-") as folder:
            command = [sys.executable, __file__, str(share / 60), "--one", name]
            done = subprocess.run(
                command, cwd=folder, env=variables(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        text = done.stdout.decode(errors="replace")
        count = max((int(a or b) for a, b in _EXECUTIONS.findall(text)), default=0)
        total += count
        print(f"{name:36} {count:9} executions{'' if done.returncode == 0 else '   FOUND'}", flush=True)
        if done.returncode != 0:
            found += 1
            print(text[-6000:], flush=True)
    print(f"{total} executions")
    return found


def fuzz_one(name: str, seconds: float) -> int:
    """Be the process that fuzzes one decoder."""
    (target,) = (one for one in targets(instrumented=True) if one.name == name)
    try:
        import atheris  # type: ignore[import-untyped,unused-ignore] # it has no types, and may not be there
    except ImportError:
        return _without_coverage(target, seconds)
    from support.fuzz import mutated

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutated(data, rng)[:most] if rng.random() < 0.5 else bytes(atheris.Mutate(data, most))

    os.mkdir("corpus")
    for number, seed in enumerate(target.seeds):
        Path("corpus", str(number)).write_bytes(seed)
    options = ["corpus", f"-max_total_time={max(int(seconds), 1)}", "-max_len=8192", "-rss_limit_mb=2048"]
    options += ["-print_final_stats=1", "-timeout=20", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options], target.feed, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _without_coverage(target: Target, seconds: float) -> int:
    """Mutations alone: where atheris has no build for this Python."""
    from support.fuzz import mutated

    rng, end, count = random.Random(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutated(rng.choice(target.seeds), rng)
        try:
            target.feed(data)
        except BaseException:
            print(f"input {data!r}")
            raise
        count += 1
    print(f"Done {count} runs")
    return 0


def fuzz_by_tests(minutes: float) -> int:
    """Run the tests with as many examples as fit half of `minutes`, by experience; return 1 if they fail."""
    env = variables() | {"MEP_FUZZ_EXAMPLES": str(max(int(minutes * 8), 10))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    return min(subprocess.run(command, cwd=ROOT, env=env, check=False).returncode, 1)


def targets(*, instrumented: bool = False) -> list[Target]:
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    if instrumented:
        try:
            import atheris

            with atheris.instrument_imports(include=["mep"]):
                from support.fuzz import TARGETS
            return list(TARGETS)
        except ImportError:
            pass
    from support.fuzz import TARGETS

    return list(TARGETS)


def variables() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
