"""The environment is made again when, and only when, what it is made from changes."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

import devenv
from support.source import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout of its own."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src" / "mep").mkdir(parents=True)
    (tmp_path / "src" / "mep" / "__init__.py").write_text("x = 1\n")
    return tmp_path


def test_requirements_are_those_of_all_extras_without_mep_itself() -> None:
    found = devenv.requirements(ROOT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) < set(found)
    assert not [line for line in found if line.startswith("mep")]
    assert [line for line in found if line.startswith("hatchling")], "needed to install without build isolation"


@pytest.mark.parametrize("path", ["src/mep/__init__.py", "src/mep/data.json", "pyproject.toml", "README.md"])
def test_any_change_of_the_source_is_seen(checkout: Path, path: str) -> None:
    before = devenv._fingerprint_of_source(checkout)
    assert devenv._fingerprint_of_source(checkout) == before
    with (checkout / path).open("a") as file:
        file.write("\n")
    assert devenv._fingerprint_of_source(checkout) != before


def test_a_renamed_file_is_seen(checkout: Path) -> None:
    before = devenv._fingerprint_of_source(checkout)
    (checkout / "src" / "mep" / "__init__.py").rename(checkout / "src" / "mep" / "other.py")
    assert devenv._fingerprint_of_source(checkout) != before


def test_byte_code_is_not_source(checkout: Path) -> None:
    before = devenv._fingerprint_of_source(checkout)
    (checkout / "src" / "mep" / "__pycache__").mkdir()
    (checkout / "src" / "mep" / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert devenv._fingerprint_of_source(checkout) == before


def test_whoever_is_not_root_is_told_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devenv, "missing_packages", lambda _wanted: ["rabbitmq-server"])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(devenv.CannotError, match=r"missing packages: rabbitmq-server\. Run once: sudo \./dev env"):
        devenv.install_packages()


def test_children_get_the_environment_and_not_the_callers_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/other")
    variables = devenv.Environment(ROOT, tmp_path, tmp_path / "cache").variables()
    assert "PYTHONPATH" not in variables
    assert "VIRTUAL_ENV" not in variables
    assert variables["PATH"].split(":")[0] == str(tmp_path / "venv" / "bin")
    assert {"/usr/sbin", "/usr/bin"} <= set(variables["PATH"].split(":"))
