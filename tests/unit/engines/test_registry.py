"""Engines by name, and their settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, InputError
from mep.config.engines import ThreadPoolEngine as ThreadSettings
from mep.engines.base import Surroundings
from mep.engines.benches import make_bench
from mep.engines.registry import build_engine, engine_names, preload


def around(tmp_path: Path) -> Surroundings:
    return Surroundings(
        uep_id="u", state_dir=str(tmp_path), title="t", on_start=lambda _: None, on_done=lambda _: None
    )


def test_an_unknown_engine_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'ThreadPolEngine'; known are ThreadPoolEngine") as caught:
        build_engine(SimpleNamespace(type="ThreadPolEngine"), around(tmp_path))
    assert caught.value.code is Code.ENGINE_UNKNOWN


def test_preload_ignores_what_it_does_not_know() -> None:
    preload(["ThreadPoolEngine", "NoSuchEngine"])
    assert "ThreadPoolEngine" in engine_names()


def test_working_dir_is_made_below_the_user_endpoints_folder(tmp_path: Path) -> None:
    settings = ThreadSettings(type="ThreadPoolEngine", working_dir="a/b")
    bench = make_bench(settings, around(tmp_path), owns_process=True)
    assert bench.working_dir == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_working_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = ThreadSettings(type="ThreadPoolEngine", working_dir="file/b")
    with pytest.raises(HostError, match="file/b") as caught:
        make_bench(settings, around(tmp_path), owns_process=True)
    assert caught.value.code is Code.HOME_NOT_WRITABLE


def test_wrong_allowed_serializers_are_refused_at_the_start(tmp_path: Path) -> None:
    settings = ThreadSettings(type="ThreadPoolEngine", allowed_serializers=("no.such.Thing",))
    with pytest.raises(InputError, match=r"no\.such\.Thing"):
        make_bench(settings, around(tmp_path), owns_process=True)


def test_the_parsl_engine_imports_nothing_that_hooks_forks_once_it_has_threads() -> None:
    code = "import mep.engines.parsl, sys; print('concurrent.futures.thread' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"
