"""The test tiers: how each is run, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import devenv
import sandbox
import vm


@dataclass(frozen=True)
class Tier:
    """What a tier needs. `workers`: test processes side by side; one file's tests stay in one of them.

    `shares_broker`: one RabbitMQ node serves all of them (a node takes 8 s of CPU to start).
    """

    what: str
    needs_root: bool = False
    needs_apt: bool = False
    needs_stock: bool = False
    needs_vm: bool = False
    shares_broker: bool = False
    workers: int = 1


TIERS = {
    "unit": Tier("no root, no network", workers=2),
    "architecture": Tier("linters, types, contracts, sizes"),
    "integration": Tier("a real broker, real children", needs_apt=True, workers=2, shares_broker=True),
    "system": Tier("real users in a private mount namespace", needs_root=True, needs_apt=True),
    "vm": Tier("a virtual machine with every cgroup controller", needs_root=True, needs_apt=True, needs_vm=True),
    "interop": Tier("the stock packages as peers", needs_root=True, needs_apt=True, needs_stock=True),
}

_NO_TESTS = 5  # pytest's exit status


@dataclass(frozen=True)
class Options:
    """What the command line asks of every tier."""

    expression: str | None = None
    stop_early: bool = False
    as_json: bool = False


@dataclass
class Outcome:
    """What came of one tier. `reasons`: why tests, or all of it, were skipped or could not run."""

    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)


def run(environment: devenv.Environment, chosen: list[str], options: Options, *, explicit: bool) -> int:
    """Run the chosen tiers, print the table and the counts; return 0 if nothing failed.

    A tier that cannot run here fails where it was asked for by name (`explicit`) or in CI, and is counted as one
    skipped test otherwise.
    """
    strict = os.environ.get("CI", "").lower() not in ("", "0", "false")
    outcomes: list[Outcome] = []
    for name in chosen:
        reason = why_not(TIERS[name]) or (vm.trouble(environment) if TIERS[name].needs_vm else "")
        if reason:
            outcome = Outcome(name, failed=int(explicit or strict), skipped=int(not (explicit or strict)))
            outcome.reasons.append(reason)
            print(f"\n== {name}: not run, {reason}", flush=True)
        else:
            outcome = _run_tier(environment, name, options, strict=strict)
        outcomes.append(outcome)
        if options.stop_early and outcome.failed:
            break
    _report(outcomes, options)
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def why_not(tier: Tier) -> str:
    """Return why `tier` cannot run on this machine, or ""."""
    if tier.needs_root:
        if os.geteuid() != 0:
            return "it becomes other users and needs root: sudo ./dev test"
        if trouble := sandbox.why_not():
            return trouble
    if tier.needs_apt and os.geteuid() != 0 and (missing := devenv.missing_packages()):
        return f"these packages are missing: {' '.join(missing)}; run once: sudo ./dev env"
    return ""


def _run_tier(environment: devenv.Environment, name: str, options: Options, *, strict: bool) -> Outcome:
    tier = TIERS[name]
    print(f"\n== {name}: {tier.what}", flush=True)
    started = time.monotonic()
    if tier.needs_stock:
        devenv.prepare_stock(environment)
    outcome = Outcome(name)
    with broker(environment, tier) as variables:
        for extra in _passes(tier):
            _run_pytest(environment, outcome, options, extra, variables)
            if options.stop_early and outcome.failed:
                break
    outcome.seconds = time.monotonic() - started
    total = outcome.passed + outcome.failed + outcome.skipped
    if total == 0 and strict and not options.expression:
        outcome.failed += 1
        outcome.reasons.append("no test ran")
    return outcome


def _passes(tier: Tier) -> list[list[str]]:
    """Return pytest's further arguments, once for each time it is run.

    Where several processes share the tests, those that are marked `alone` come afterwards, in one: the others'
    processes have a second thread, by which they are told what to run.
    """
    if tier.workers == 1:
        return [[]]
    return [["-n", str(tier.workers), "--dist", "loadfile", "-m", "not alone"], ["-m", "alone"]]


def _run_pytest(
    environment: devenv.Environment,
    outcome: Outcome,
    options: Options,
    extra: list[str],
    variables: dict[str, str],
) -> None:
    """Run a tier's pytest once, and add what came of it to `outcome`."""
    tier, tests = TIERS[outcome.tier], f"tests/{outcome.tier}"
    with tempfile.TemporaryDirectory(prefix="mep-test-") as folder:
        report = Path(folder, "report.xml")
        command = [str(environment.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, *extra]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command += ["-k", options.expression] if options.expression else []
        command += ["-x"] if options.stop_early else []
        before = outcome.failed
        status = _run(environment, command, variables, in_sandbox=tier.needs_root)
        _read(outcome, report)
    if status not in (0, 1, _NO_TESTS) and outcome.failed == before:
        outcome.failed += 1
        outcome.reasons.append(f"pytest ended with status {status}")


def _run(
    environment: devenv.Environment, command: list[str], variables: dict[str, str], *, in_sandbox: bool
) -> int:
    if in_sandbox:
        return environment.run_in_sandbox(command)
    env = environment.variables() | variables
    return subprocess.run(command, cwd=environment.root, env=env, check=False).returncode


@contextmanager
def broker(environment: devenv.Environment, tier: Tier) -> Iterator[dict[str, str]]:
    """Run the tier's shared RabbitMQ node; yield the variables that tell the tests of it.

    Where no node can start, there are none, and each test says so for itself.
    """
    if not tier.shares_broker:
        yield {}
        return
    node = [str(environment.python), str(environment.root / "tests" / "support" / "brokernode.py")]
    env = environment.variables()
    with (
        tempfile.TemporaryDirectory(prefix="mep-broker-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        subprocess.Popen([*node, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as running,
    ):
        assert running.stdout is not None
        line = running.stdout.readline()
        urls = json.loads(line) if line else {}
        yield {"MEP_TEST_BROKER": urls["amqp"], "MEP_TEST_BROKER_API": urls["management"]} if urls else {}


def _read(outcome: Outcome, report: Path) -> None:
    """Add the counts of pytest's XML report; errors in set-up or clean-up count as failures."""
    if not report.exists() or not report.read_bytes().strip():
        return
    for case in ElementTree.parse(report).iter("testcase"):
        where = f"{case.get('classname', '')}::{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif (skip := case.find("skipped")) is not None:
            outcome.skipped += 1
            outcome.reasons.append(f"{where}: {skip.get('message', '')}")
        else:
            outcome.passed += 1


def _report(outcomes: list[Outcome], options: Options) -> None:
    for outcome in outcomes:
        for reason in outcome.reasons:
            print(f"{outcome.tier}: {reason}")
    print(f"\n{'tier':14} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for o in outcomes:
        print(f"{o.tier:14} {o.passed:7} {o.failed:7} {o.skipped:8} {o.seconds:8.1f}")
    passed, failed, skipped = (sum(getattr(o, what) for o in outcomes) for what in ("passed", "failed", "skipped"))
    if options.as_json:
        total = {"passed": passed, "failed": failed, "skipped": skipped}
        print(json.dumps({"tiers": [asdict(o) for o in outcomes], **total}))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.stdout.flush()
