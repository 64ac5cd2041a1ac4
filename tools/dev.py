"""Everything a developer does, behind ./dev. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one deserves one line, not a traceback
    sys.exit(f"dev: {sys.executable} is {sys.version.split()[0]}; mep needs 3.11 or later.")

import argparse
from collections.abc import Callable
from pathlib import Path

import devenv
import fuzz as fuzzing
import linters
import mutations
import races as racing
import tiers

ROOT = Path(__file__).resolve().parent.parent

HELP = """usage: ./dev COMMAND

  env [--stock]        make the environment; the last line printed is its folder of programs
  test [TIER...]       linters, types, contracts and tests: unit integration system vm interop architecture (all)
                       -k EXPR and -x as in pytest; --json prints the counts as one JSON line
  check                the linters alone, quickly
  mutate [NAME...]     take the product's mechanisms away one by one: the tests that promise them must fail;
                       --list shows them, --room R runs those of tests/mutations/R.toml (root)
  fuzz [MINUTES]       every decoder, guided by coverage, and every route of the relay (10); --help tells more
  races [MINUTES]      every order of events around a user endpoint, on a model (10); --help tells more
  demo [--json]        two users on one endpoint, from nothing to nothing (root)
  chaos [...]          everything killed at random under load, every task accounted for; --help tells more (root)
  trials [...]         every end of a user endpoint, 100 times: nothing is left; --storm: 200 users at once (root)
  bench [...]          ours against stock, one JSON line per row (root)
  sandbox CMD...       run a command where the throw-away users exist (root)
  help                 this text

Everything installs what it needs by itself. MEP_DEV_DIR says where; by default that is /var/cache/mep-dev
for root, ~/.cache/mep-dev for others.
"""


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    os.umask(0o022)  # what is installed must be readable by the other local users, whatever the caller's umask is
    os.chdir(ROOT)
    name, rest = (argv[0], argv[1:]) if argv else ("help", [])
    commands: dict[str, Callable[[list[str]], int]] = {
        "env": env,
        "test": test,
        "check": check,
        "mutate": mutate,
        "fuzz": fuzz,
        "races": races,
        "demo": demo,
        "bench": bench,
        "chaos": chaos,
        "trials": trials,
        "sandbox": sandbox,
        "help": show_help,
    }
    command = commands.get({"-h": "help", "--help": "help"}.get(name, name))
    if command is None:
        print(HELP, end="", file=sys.stderr)
        print(f"dev: unknown command {name!r}", file=sys.stderr)
        return 2
    try:
        return command(rest)
    except devenv.CannotError as error:
        print(f"dev: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def show_help(_argv: list[str]) -> int:
    print(HELP, end="")
    return 0


def env(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev env")
    parser.add_argument("--stock", action="store_true", help="the stock packages that interop is tested with")
    arguments = parser.parse_args(argv)
    environment = devenv.prepare(ROOT, apt=True)
    print(devenv.prepare_stock(environment) if arguments.stock else environment.bin)
    return 0


def test(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev test")
    parser.add_argument("tier", nargs="*", choices=[*tiers.TIERS, "all", []], default=[])
    parser.add_argument("-k", metavar="EXPR", help="only tests that match, as in pytest")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON line at the end")
    arguments = parser.parse_args(argv)
    chosen = list(tiers.TIERS) if not arguments.tier or "all" in arguments.tier else arguments.tier
    needs_apt = any(tiers.TIERS[name].needs_apt for name in chosen) and (os.geteuid() == 0 or bool(arguments.tier))
    environment = devenv.prepare(ROOT, apt=needs_apt)
    options = tiers.Options(expression=arguments.k, stop_early=arguments.x, as_json=arguments.json)
    return tiers.run(environment, chosen, options, explicit=bool(arguments.tier))


def check(_argv: list[str]) -> int:
    environment = devenv.prepare(ROOT, apt=False)
    return linters.run_all(environment)


def mutate(argv: list[str]) -> int:
    return mutations.main(argv, devenv.prepare(ROOT, apt=os.geteuid() == 0))


def fuzz(argv: list[str]) -> int:
    return fuzzing.start(devenv.prepare(ROOT, apt=os.geteuid() == 0), argv)


def races(argv: list[str]) -> int:
    return racing.start(devenv.prepare(ROOT, apt=False), argv)


def demo(argv: list[str]) -> int:
    return _in_sandbox("demo", ["tools/demo.py", *argv], stock=False)


def bench(argv: list[str]) -> int:
    return _in_sandbox("bench", ["tools/bench.py", *argv], stock=True)


def chaos(argv: list[str]) -> int:
    return _in_sandbox("chaos", ["tools/chaos.py", *argv], stock=False)


def trials(argv: list[str]) -> int:
    return _in_sandbox("trials", ["tools/trials.py", *argv], stock=False)


def sandbox(argv: list[str]) -> int:
    if not argv:
        raise devenv.CannotError("say what to run: ./dev sandbox CMD...")
    _need_root("sandbox")
    environment = devenv.prepare(ROOT, apt=True)
    return environment.run_in_sandbox(argv)


def _in_sandbox(name: str, argv: list[str], *, stock: bool) -> int:
    _need_root(name)
    environment = devenv.prepare(ROOT, apt=True)
    if stock:
        devenv.prepare_stock(environment)
    return environment.run_in_sandbox([str(environment.python), *argv])


def _need_root(name: str) -> None:
    if os.geteuid() != 0:
        raise devenv.CannotError(f"`{name}` becomes other users and needs root: sudo ./dev {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
