"""Shell functions: what they do, and that they travel under the stock names."""

from __future__ import annotations

import base64
import json
import pickletools
from pathlib import Path
from typing import Any

import pytest

from mep.serialize import Serializer
from mep.serialize.hardware import hardware_report
from mep.serialize.shell import BashFunction, MPIFunction, ShellFunction, ShellResult
from support.wait import until

GOLDEN: dict[str, str] = json.loads(Path(__file__).with_name("golden.json").read_text())


@pytest.fixture(autouse=True)
def _in_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GC_TASK_SANDBOX_DIR", str(tmp_path))


def _globals_in(buffer: str) -> set[str]:
    """Return the import paths that a pickle names."""
    strings: list[str] = []
    found: set[str] = set()
    for opcode, argument, _ in pickletools.genops(base64.b64decode(buffer[3:])):
        if opcode.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def test_output_status_and_command_come_back(tmp_path: Path) -> None:
    result = ShellFunction("echo {word}; echo oh >&2; pwd; exit 3")(word="hello")
    assert isinstance(result, ShellResult)
    assert result.stdout == f"hello\n{tmp_path}\n"
    assert (result.stderr, result.returncode) == ("oh\n", 3)
    assert result.exception_name == "subprocess.CalledProcessError"
    assert "oh" in str(result)


def test_a_dict_comes_back_if_asked_for() -> None:
    assert ShellFunction("true", return_dict=True)() == {
        "cmd": "true",
        "stdout": "",
        "stderr": "",
        "returncode": 0,
        "exception_name": None,
    }


def test_only_the_last_lines_come_back() -> None:
    assert ShellFunction("seq 5", snippet_lines=2)().stdout == "4\n5\n"  # type: ignore[union-attr]


def test_output_goes_to_the_named_file_behind_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log").write_text("before\n")
    result: Any = ShellFunction("echo now", stdout="out/log")()
    assert (result.stdout, (tmp_path / "out" / "log").read_text()) == ("now\n", "before\nnow\n")


def test_output_that_is_no_text_comes_back_as_far_as_it_is() -> None:
    result: Any = ShellFunction(r"printf 'a\377b'")()
    assert result.stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_walltime_ends_the_command_and_its_children(tmp_path: Path) -> None:
    result: Any = ShellFunction("sleep 60 & echo $! > pid; wait", walltime=0.3)()
    assert (result.returncode, result.exception_name) == (124, "subprocess.TimeoutExpired")
    child = int((tmp_path / "pid").read_text())
    until(lambda: _gone(child), "the command's child is gone")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("wrong", [{"walltime": -1}, {"name": "no name"}, {"name": "def"}, {"name": ""}])
def test_wrong_settings_are_refused_where_they_are_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        ShellFunction("true", **wrong)


def test_an_mpi_command_is_started_by_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARSL_MPI_PREFIX", "env RANKS=4")
    result: Any = MPIFunction("bash -c 'echo $RANKS {x}'")(x=1)
    assert result.stdout == "4 1\n"


@pytest.mark.parametrize("name", ["shell", "mpi", "result", "hw"])
def test_stock_objects_become_ours_without_the_stock_package(name: str) -> None:
    found: Any = Serializer().deserialize(GOLDEN[name])
    kinds: dict[str, type] = {
        "shell": ShellFunction,
        "mpi": MPIFunction,
        "result": ShellResult,
        "hw": type(hardware_report),
    }
    assert type(found) is kinds[name]
    if isinstance(found, ShellFunction) and name == "shell":
        assert (found.cmd, found.walltime, found.__name__) == ("echo {x}", 5, "hello")


def test_a_function_that_an_older_sdk_pickled_runs() -> None:
    old = ShellFunction("echo old")
    del old.return_dict, old.snippet_lines, old.walltime
    result: Any = Serializer().deserialize(Serializer().serialize(old))()
    assert result.stdout == "old\n"


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (ShellFunction("true"), "globus_compute_sdk.sdk.shell_function.ShellFunction"),
        (BashFunction("true"), "globus_compute_sdk.sdk.shell_function.ShellFunction"),
        (MPIFunction("true"), "globus_compute_sdk.sdk.mpi_function.MPIFunction"),
        (ShellResult("c", "o", "e", 0), "globus_compute_sdk.sdk.shell_function.ShellResult"),
        (hardware_report, "globus_compute_sdk.sdk.hardware_report.run_hardware_report"),
    ],
)
def test_ours_travel_under_the_stock_name_alone(made: Any, path: str) -> None:
    assert _globals_in(Serializer().serialize(made)) == {path}


def test_a_pickled_shell_function_is_the_stock_one_byte_for_byte() -> None:
    assert Serializer().serialize(ShellFunction("echo {x}", walltime=5, name="hello")) == GOLDEN["shell"]


def test_a_shell_result_comes_back_equal() -> None:
    serializer, result = Serializer(), ShellResult("c", "o", "e", 1, "x")
    assert serializer.deserialize(serializer.serialize(result)) == result


def test_the_hardware_report_names_the_interpreter() -> None:
    assert "interpreter: " in hardware_report()
