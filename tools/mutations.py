"""Take one mechanism of the product away, run the tests that promise to notice, expect each of them to fail.

    ./dev mutate [NAME...] [--room ROOM] [--list] [--no-baseline]

What is taken away stands in tests/mutations/*.toml. All happens in a copy of the tree, with an environment of its
own that finds mep there, whoever runs it: `python -m mep`, the tests, and children that are other users.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import devenv
import mutationlist
import tiers
from mutationlist import Mutation

_LONGEST_S = 1200  # for the tests of one entry in one tier; pytest ends each test after 120 s
_HASHED = py_compile.PycInvalidationMode.CHECKED_HASH  # a changed file is never taken for the unchanged one


@dataclass(frozen=True)
class Verdict:
    """What one test said: "red", "green", "skipped" or "not run"."""

    test: str
    word: str


def main(argv: list[str], environment: devenv.Environment) -> int:
    """Run the chosen mutations; return 1 if a test stayed green without what it promises, or could not say."""
    parser = argparse.ArgumentParser(prog="./dev mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="*", help="entries of tests/mutations (all)")
    parser.add_argument("--room", action="append", default=[], help="only those of tests/mutations/ROOM.toml")
    parser.add_argument("--list", action="store_true", help="show them and whether they fit the tree; run nothing")
    parser.add_argument(
        "--no-baseline", action="store_true", help="do not first run the tests on the tree as it is"
    )
    arguments = parser.parse_args(argv)
    try:
        entries = mutationlist.read(environment.root)
    except mutationlist.BadListError as error:
        raise devenv.CannotError(str(error)) from None
    chosen = _choose(entries, arguments.name, arguments.room)
    faults = mutationlist.faults(environment.root, chosen)
    if arguments.list:
        for entry in chosen:
            print(f"{entry.room:14} {entry.name:44} {entry.edits[0].file}")
    print("".join(f"does not fit: {fault}\n" for fault in faults), end="")
    if arguments.list or faults:
        return int(bool(faults))
    with _copy(environment) as copy, contextlib.ExitStack() as stack:
        runner = _Runner(copy, stack)
        passed = arguments.no_baseline or _baseline(runner, chosen)
        survived = [entry for entry in chosen if not _run_entry(runner, entry)]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mechanisms are noticed when they are taken away")
    return int(bool(survived) or not passed)


def _choose(entries: list[Mutation], names: list[str], rooms: list[str]) -> list[Mutation]:
    unknown = set(names) - {entry.name for entry in entries} | set(rooms) - {entry.room for entry in entries}
    if unknown:
        raise devenv.CannotError(f"tests/mutations has no {', '.join(sorted(unknown))}")
    return [e for e in entries if (not names or e.name in names) and (not rooms or e.room in rooms)]


def _baseline(runner: _Runner, chosen: list[Mutation]) -> bool:
    """Run all tests once with nothing taken away: one that fails then proves nothing."""
    verdicts = runner.run(sorted({test for entry in chosen for test in entry.tests}))
    wrong = [verdict for verdict in verdicts if verdict.word != "green"]
    for verdict in wrong:
        print(f"with nothing taken away: {verdict.word:8} {verdict.test}")
    return not wrong


def _run_entry(runner: _Runner, entry: Mutation) -> bool:
    """Run one entry's tests without its mechanism, print a line; return whether each of them noticed."""
    started = time.monotonic()
    with _changed(runner.environment.root, entry):
        verdicts = runner.run(list(entry.tests))
    noticed = all(verdict.word == "red" for verdict in verdicts)
    took = time.monotonic() - started
    print(f"{'noticed' if noticed else 'SURVIVED':9} {entry.room:14} {entry.name:44} {took:6.1f} s", flush=True)
    for verdict in verdicts:
        if verdict.word != "red":
            print(f"          {verdict.word:8} {verdict.test}", flush=True)
    return noticed


class _Runner:
    """Runs named tests in the copy as the tiers do; the shared broker is started when a test first needs it."""

    def __init__(self, environment: devenv.Environment, stack: contextlib.ExitStack) -> None:
        self.environment = environment
        self.output = environment.base / "output"
        self._stack = stack
        self._broker: dict[str, str] | None = None

    def run(self, tests: list[str]) -> list[Verdict]:
        found: list[Verdict] = []
        for name in tiers.TIERS:
            mine = [test for test in tests if test.startswith(f"tests/{name}/")]
            if mine:
                found += self._run_tier(name, mine)
        return found

    def _run_tier(self, name: str, tests: list[str]) -> list[Verdict]:
        tier = tiers.TIERS[name]
        if reason := tiers.why_not(tier):
            raise devenv.CannotError(f"{name}: {reason}")
        if tier.shares_broker and self._broker is None:
            self._broker = self._stack.enter_context(tiers.broker(self.environment, tier))
        report = self.environment.base / "report.xml"
        report.unlink(missing_ok=True)
        pytest = [str(self.environment.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
        command = [*pytest, *tests, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        variables = self.environment.variables() | ((self._broker or {}) if tier.shares_broker else {})
        variables["CI"] = "true"  # the same examples each time
        if tier.needs_root:
            command = [devenv.PYTHON, str(self.environment.root / "tools" / "sandbox.py"), "--", *command]
        _run(command, variables, self.environment.root, self.output)
        words = _words(report)
        verdicts = [Verdict(test, _word(test, words)) for test in tests]
        if any(verdict.word in ("not run", "skipped") for verdict in verdicts):
            print(self.output.read_text(errors="replace")[-3000:])
        return verdicts


def _run(command: list[str], variables: dict[str, str], folder: Path, output: Path) -> None:
    """Run it to its end, or to ours: what hangs is ended, and has then said nothing."""
    with output.open("wb") as sink:
        process = subprocess.Popen(command, env=variables, cwd=folder, stdout=sink, stderr=sink)
        try:
            process.wait(_LONGEST_S)
        except BaseException as error:
            process.terminate()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _words(report: Path) -> dict[str, set[str]]:
    """Return what each case of pytest's report said, by its node id."""
    words: dict[str, set[str]] = {}
    if not report.exists() or not report.read_bytes().strip():
        return words
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("file", "")
        classes = case.get("classname", "").removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
        node = "::".join([file, *filter(None, classes.split(".")), case.get("name", "")])
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        word = "green" if not kinds else "skipped" if kinds == {"skipped"} else "red"
        words.setdefault(node, set()).add(word)
    return words


def _word(test: str, words: dict[str, set[str]]) -> str:
    """Return what `test` said: red if one of its cases did (an entry may name the case)."""
    said: set[str] = set()
    for node, word in words.items():
        if node == test or ("[" not in test and node.partition("[")[0] == test):
            said |= word
    return next((word for word in ("red", "green", "skipped") if word in said), "not run")


@contextlib.contextmanager
def _copy(environment: devenv.Environment) -> Iterator[devenv.Environment]:
    """Make the copy and its environment, which is the given one with the copy's mep before the installed one."""
    environment.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutate-", dir=environment.cache, ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)  # as the installed one, it is for other users too
        root, base = Path(place, "tree"), Path(place, "base")
        unwanted = shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        shutil.copytree(environment.root, root, symlinks=True, ignore=unwanted)
        for folder in ("src", "tests", "tools"):
            compileall.compile_dir(root / folder, quiet=2, invalidation_mode=_HASHED)
        _make_environment(environment.base / "venv", base / "venv", root / "src")
        if (environment.base / "stock").exists():
            (base / "stock").symlink_to(environment.base / "stock")
        yield replace(environment, root=root, base=base)


def _make_environment(real: Path, made: Path, source: Path) -> None:
    """Make a virtual environment whose packages are those of `real`, with `source` before them."""
    shutil.copytree(real / "bin", made / "bin", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(real / "pyvenv.cfg", made)
    packages = next((real / "lib").glob("python3*/site-packages"))
    own = made / packages.relative_to(real)
    own.mkdir(parents=True)
    (own / "tree.pth").write_text(f"{source}\n{packages}\n")
    for path in (made / "bin").iterdir():
        if not path.is_symlink() and path.is_file():
            path.write_bytes(path.read_bytes().replace(f"{real}/bin/".encode(), f"{made}/bin/".encode()))


@contextlib.contextmanager
def _changed(root: Path, entry: Mutation) -> Iterator[None]:
    """Change the tree at `root` as the entry says, and back."""
    texts = mutationlist.mutated(root, entry)
    before = {file: (root / file).read_text() for file in texts}
    _write(root, texts)
    try:
        yield
    finally:
        _write(root, before)


def _write(root: Path, texts: dict[str, str]) -> None:
    for file, text in texts.items():
        (root / file).write_text(text)
        if file.endswith(".py"):
            py_compile.compile(str(root / file), invalidation_mode=_HASHED, quiet=2)


if __name__ == "__main__":  # by hand, with the environment that is there: nothing is installed
    ready = Path(sys.prefix).resolve().parent
    try:
        sys.exit(main(sys.argv[1:], devenv.Environment(Path.cwd(), ready, ready / "cache")))
    except devenv.CannotError as error:
        sys.exit(f"mutations: {error}")
