"""What becomes of a packed call: value, traceback, limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mep.engines.worker import Bench, execute
from mep.serialize.facade import Serializer
from mep.wire import envelope
from support.uep import task_buffer

BENCH = Bench(uep_id="u", max_result_chars=10_000)


@pytest.fixture(autouse=True)
def _kept_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker sets variables and the current folder, as it should in a process of its own."""
    monkeypatch.setenv("GC_TASK_UUID", "")
    monkeypatch.setenv("GC_TASK_SANDBOX_DIR", "")
    here = os.getcwd()
    yield
    os.chdir(here)


def run(function: Callable[..., Any], *args: Any, bench: Bench = BENCH, **kwargs: Any) -> envelope.Result:
    code, body = execute(task_buffer(function, *args, **kwargs), "t", (), bench)
    result = envelope.decode(body)
    assert isinstance(result, envelope.Result)
    assert (result.error_details.code if result.error_details else "") == code
    return result


def test_the_value_comes_back_serialized() -> None:
    result = run(lambda a, b=0: a + b, 1, b=2)
    assert Serializer().deserialize(result.data) == 3
    assert result.error_details is None


def test_the_traceback_has_the_users_frames_only() -> None:
    def inner() -> None:
        raise KeyError("k")

    def outer() -> None:
        inner()

    text = run(outer).data
    assert text.startswith("Traceback (most recent call last):")
    assert text.index("in outer") < text.index("in inner") < text.index("KeyError: 'k'")
    assert "engines/worker.py" not in text
    assert "engines/timelimit.py" not in text


def test_a_cause_is_part_of_the_traceback() -> None:
    def fails() -> None:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error

    text = run(fails).data
    assert "ValueError: first" in text
    assert "direct cause" in text
    assert "RuntimeError: second" in text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_no_exception_passes(kind: type[BaseException]) -> None:
    def fails() -> None:
        raise kind("x")

    result = run(fails)
    assert result.error_details is not None
    assert kind.__name__ in result.data


def test_an_exception_whose_text_fails_is_named() -> None:
    def fails() -> None:
        class Nasty(Exception):
            def __str__(self) -> str:
                raise SystemExit

        raise Nasty

    result = run(fails)
    assert result.error_details is not None
    assert "Nasty" in result.data


def test_a_result_above_the_limit_names_both_sizes() -> None:
    result = run(lambda: "x" * 20_000)
    assert result.error_details is not None
    assert result.error_details.code == "MaxResultSizeExceeded"
    assert "10000" in result.data


def test_a_long_error_text_keeps_both_ends() -> None:
    def fails() -> None:
        raise ValueError("begin" + "x" * 50_000 + "end")

    text = run(fails).data
    assert len(text) < 10_000
    assert text.startswith("Traceback")
    assert text.rstrip().endswith("end")


def test_a_value_that_cannot_be_serialized_says_why() -> None:
    def gives_a_socket() -> Any:
        import socket

        return socket.socket()

    result = run(gives_a_socket)
    assert result.error_details is not None
    assert "serialize" in result.data


def test_a_payload_that_is_no_call_says_so() -> None:
    code, body = execute("garbage", "t", (), BENCH)
    assert code == "RemoteExecutionError"
    assert b"TASK_MALFORMED" in body


def test_texts_that_are_no_utf8_still_travel() -> None:
    def fails() -> None:
        raise ValueError("\udc80")

    result = run(fails)
    assert result.error_details is not None
    assert "udc80" in result.data


def test_the_task_knows_its_id_and_its_folder(tmp_path: Path) -> None:
    def where() -> tuple[str, str, str]:
        import os

        return os.environ["GC_TASK_UUID"], os.environ["GC_TASK_SANDBOX_DIR"], os.getcwd()

    bench = Bench(uep_id="u", working_dir=str(tmp_path), sandbox=True)
    found = Serializer().deserialize(run(where, bench=bench).data)
    assert found == ("t", str(tmp_path / "t"), str(tmp_path / "t"))


def test_only_allowed_serializers_are_read() -> None:
    allowed = ("globus_compute_sdk.*Data", "globus_compute_sdk.serialize.PureSourceTextInspect")
    result = run(lambda: 1, bench=Bench(uep_id="u", allowed_serializers=allowed))
    assert result.error_details is not None
    assert "not allowed" in result.data


def test_a_time_limit_ends_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "0.05")

    def sleeps() -> None:
        import time

        time.sleep(10)

    result = run(sleeps)
    assert result.error_details is not None
    assert "time limit of 0.05 s" in result.data
