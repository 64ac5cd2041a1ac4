"""Mapping programs: within time and size, killed with what they started, no inherited environment."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.host.programs import run_program


def sh(script: str, stdin: bytes = b"", *, timeout_s: float = 5.0, most: int = 10_000) -> bytes:
    return run_program(["/bin/sh", "-c", script], stdin, timeout_s=timeout_s, max_output_bytes=most)


def code_of(script: str, **options: float) -> Code:
    with pytest.raises(HostError) as caught:
        sh(script, **options)  # type: ignore[arg-type] # numbers only
    return caught.value.code


def test_it_gets_its_input_and_gives_its_output() -> None:
    assert sh("cat", b"x" * 200_000, most=300_000) == b"x" * 200_000


def test_input_that_is_not_read_is_no_error() -> None:
    assert sh("echo done", b"x" * 1_000_000) == b"done\n"


def test_a_hanging_one_is_killed_with_what_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; wait"
    assert code_of(script, timeout_s=0.3) == Code.MAPPING_TIMEOUT
    assert time.monotonic() - began < 3
    stat = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not stat.exists() or " Z " in stat.read_text()


def test_one_that_closes_its_output_and_stays_is_killed_too() -> None:
    assert code_of("exec >&-; sleep 1000", timeout_s=0.3) == Code.MAPPING_TIMEOUT


@pytest.mark.parametrize("script", ["exit 3", "yes", "kill -9 $$"])
def test_failures(script: str) -> None:
    assert code_of(script) == Code.MAPPING_FAILED


def test_one_that_cannot_be_run() -> None:
    with pytest.raises(HostError, match="MAPPING_FAILED") as caught:
        run_program(["/nothing/here"], b"", timeout_s=1)
    assert "/nothing/here" in caught.value.for_admin()
    assert "/nothing/here" not in caught.value.for_user()


def test_nothing_of_our_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEP_CLIENT_SECRET", "s3cret")
    assert b"s3cret" not in sh("env")
    assert sh("pwd") == b"/\n"
    assert sh("ls /proc/self/fd | wc -l").strip() in (b"3", b"4")
    assert os.environ["MEP_CLIENT_SECRET"]
