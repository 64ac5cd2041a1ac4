"""The counts at the end of ./dev test are those of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import devenv
import tiers

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="a" name="one"/><testcase classname="a" name="two"><failure message="m"/></testcase>
<testcase classname="a" name="three"><error message="in set-up"/></testcase>
<testcase classname="a" name="four"><skipped message="no root"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def environment(tmp_path: Path) -> devenv.Environment:
    return devenv.Environment(tmp_path, tmp_path, tmp_path / "cache")


def use(monkeypatch: pytest.MonkeyPatch, report: str, status: int) -> None:
    """Let every tier's pytest write `report` and end with `status`."""

    def run(_environment: object, command: list[str], _variables: object, *, in_sandbox: bool) -> int:
        path = next(word for word in command if word.startswith("--junitxml="))
        Path(path.partition("=")[2]).write_text(report)
        return status

    monkeypatch.setattr(tiers, "_run", run)


def run(environment: devenv.Environment, *names: str, **options: Any) -> int:
    return tiers.run(environment, list(names), tiers.Options(**options), explicit=True)


def test_counts_are_summed_and_the_last_line_says_so(
    environment: devenv.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, REPORT, 1)
    assert run(environment, "unit", "architecture") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 passed, 6 failed, 3 skipped", "unit has two passes, architecture one"
    assert "unit: a::four: no root" in lines


def test_all_passed_is_status_zero(
    environment: devenv.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, '<testsuites><testsuite><testcase classname="a" name="b"/></testsuite></testsuites>', 0)
    assert run(environment, "unit") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"


@pytest.mark.parametrize("status", [2, 3, 4, 139])
def test_a_tier_whose_pytest_breaks_down_is_a_failure(
    environment: devenv.Environment,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
) -> None:
    use(monkeypatch, "", status)
    assert run(environment, "unit") == 1
    assert f"unit: pytest ended with status {status}" in capsys.readouterr().out


def test_in_ci_a_tier_without_tests_is_a_failure(
    environment: devenv.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, "<testsuites/>", 5)
    monkeypatch.setenv("CI", "true")
    assert run(environment, "unit") == 1
    assert run(environment, "unit", expression="name") == 0
    monkeypatch.delenv("CI")
    assert run(environment, "unit") == 0
    assert "unit: no test ran" in capsys.readouterr().out


def test_a_tier_that_cannot_run_is_skipped_unless_asked_for_or_in_ci(
    environment: devenv.Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiers, "why_not", lambda _tier: "it needs root")
    monkeypatch.delenv("CI", raising=False)
    assert tiers.run(environment, ["system"], tiers.Options(), explicit=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"
    assert tiers.run(environment, ["system"], tiers.Options(), explicit=True) == 1
    monkeypatch.setenv("CI", "true")
    assert tiers.run(environment, ["system"], tiers.Options(), explicit=False) == 1
    assert "system: it needs root" in capsys.readouterr().out
