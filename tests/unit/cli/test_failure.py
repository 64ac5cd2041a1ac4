"""Whatever goes wrong: one clear line and a documented exit status, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, InputError, RefusedError
from mep.base.exits import Exit
from mep.base.meanings import MEANINGS
from mep.cli import ALIASES, COMMANDS, main
from mep.cli.failure import exit_for, exit_status
from support.cli import MepCommand


def fail(error: BaseException) -> int:
    def run() -> None:
        raise error

    return exit_status(run)


def test_an_expected_failure_is_one_line_with_code_text_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    status = fail(InputError(Code.CONFIG_INVALID, "for the user", admin_text="config.yaml line 3: x: found 1."))
    err = capsys.readouterr().err
    assert status == Exit.CONFIG
    assert err == (
        "mep: CONFIG_INVALID: config.yaml line 3: x: found 1. "
        "Correct the file; `mep check NAME` reads every file.\n"
    )


def test_a_step_that_comes_with_the_error_wins(capsys: pytest.CaptureFixture[str]) -> None:
    fail(RefusedError(Code.ENDPOINT_EXISTS, "it exists.", step="Do this."))
    assert capsys.readouterr().err == "mep: ENDPOINT_EXISTS: it exists. Do this.\n"
    fail(HostError(Code.CONFIG_UNREADABLE, "gone.", step=""))
    assert capsys.readouterr().err == "mep: CONFIG_UNREADABLE: gone.\n"


def test_a_defect_is_one_line_and_says_where_to_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEP_DEBUG", raising=False)
    assert fail(ZeroDivisionError("division by zero")) == Exit.SOFTWARE
    err = capsys.readouterr().err
    assert err.startswith(
        "mep: INTERNAL: ZeroDivisionError: division by zero. This is a defect of mep: please report"
    )
    assert err.count("\n") == 1
    monkeypatch.setenv("MEP_DEBUG", "1")
    fail(ZeroDivisionError("division by zero"))
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_interrupting_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "mep: interrupted\n"


def test_a_commands_own_status_is_kept() -> None:
    assert exit_status(lambda: 3) == 3
    assert exit_status(lambda: None) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nothing"], 2, "No such command 'nothing'"),
        (["check", "--nothing", "x"], 2, "No such option"),
        (["check", "nobody"], 1, "mep: ENDPOINT_UNKNOWN: There is no endpoint 'nobody' in "),
        (["render", "nobody"], 1, "ENDPOINT_UNKNOWN"),
        (["map", "nobody", "--identity", "a@b"], 1, "ENDPOINT_UNKNOWN"),
        (["delete", "nobody", "--yes"], 1, "ENDPOINT_UNKNOWN"),
        (["check", "../etc"], 2, "mep: USAGE: '../etc' cannot name an endpoint"),
        (["check", "0123abcd-0000-4000-8000-000000000001"], 1, "ENDPOINT_UNKNOWN"),
    ],
)
def test_a_wrong_command_line(command: MepCommand, arguments: list[str], status: int, says: str) -> None:
    answer = command.run(*arguments)
    assert answer.status == status
    assert says in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", [*COMMANDS, *ALIASES])
def test_every_command_of_the_table_is_there_and_has_help(command: MepCommand, name: str) -> None:
    answer = command.run(name, "--help")
    assert answer.status == 0
    assert "Usage: mep " in answer.out


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom mep.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "rooms = ('mep.cli.', 'mep.config', 'mep.relay', 'mep.sdk', 'pydantic')\n"
        "print([m for m in sys.modules if m.startswith(rooms)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = out.splitlines()[-1]
    assert loaded == "['mep.cli.failure']"
    assert [name for name in COMMANDS if f"  {name} " not in out] == []
    assert main.name == "main"


def test_every_code_has_a_meaning_and_every_status_is_an_exit() -> None:
    assert set(MEANINGS) == set(Code)
    assert all(isinstance(exit_for(code), Exit) for code in Code)
