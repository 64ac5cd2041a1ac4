"""What users see when something fails, and that it survives pickling."""

from __future__ import annotations

import pickle

import pytest

from mep.base.codes import Code
from mep.base.errors import MepError
from mep.sdk.errors import (
    ComputeAPIError,
    MaxResultSizeExceeded,
    TaskExecutionFailed,
    TaskPending,
    VersionMismatch,
)
from mep.sdk.http import error_of

ALL = [
    ComputeAPIError(404, "ENDPOINT_NOT_FOUND", "no such endpoint", request_id="r1"),
    TaskPending("waiting-for-nodes"),
    TaskExecutionFailed(
        "Traceback\nValueError: x", "12.5", {"python_version": "3.11"}, code="RemoteExecutionError"
    ),
    MaxResultSizeExceeded(11, 10),
    VersionMismatch("too old"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda e: type(e).__name__)
def test_errors_survive_pickling(error: MepError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code, vars(copy)) == (type(error), str(error), error.code, vars(error))


@pytest.mark.parametrize("error", ALL, ids=lambda e: type(e).__name__)
def test_every_face_of_mep_can_show_them(error: MepError) -> None:
    assert error.for_admin().startswith(f"{error.code.value}: ")
    assert str(error).startswith(f"{error.code.value}:")


def test_a_401_says_how_to_log_in() -> None:
    error = error_of(401, b'{"code": "USER_UNAUTHENTICATED", "detail": "no token"}', "GET /x")
    assert (error.code, error.http_status) == (Code.AUTH_REQUIRED, 401)
    assert "no token" in str(error)
    assert "mep login" in str(error)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"code": "X", "message": "m", "detail": "d"}', "X: m"),
        (b'{"code": 5, "detail": "d"}', "INVALID_REQUEST: d"),
        (b'{"reason": "old name"}', "INVALID_REQUEST: old name"),
        (b'{"detail": [{"loc": ["body", "tasks"], "msg": "missing"}]}', "INVALID_REQUEST: body.tasks: missing"),
        (b"<html>", "INVALID_REQUEST: GET /x: the relay answered with status 422."),
        (b"[]", "INVALID_REQUEST: GET /x: the relay answered with status 422."),
    ],
)
def test_the_relays_own_words_are_shown(body: bytes, text: str) -> None:
    assert str(error_of(422, body, "GET /x")).startswith(text)


def test_a_relays_text_that_has_code_and_next_step_is_not_doubled() -> None:
    step = "Correct user_endpoint_config and submit again."
    body = f'{{"code": "OPTIONS_INVALID", "detail": "OPTIONS_INVALID: $.a is 1. {step}"}}'.encode()
    assert str(error_of(422, body, "POST /x")) == f"OPTIONS_INVALID: $.a is 1. {step}"


def test_a_failed_task_shows_the_remote_traceback_as_it_is() -> None:
    error = TaskExecutionFailed("Traceback (most recent call last):\nValueError: x", code="RemoteExecutionError")
    assert str(error) == "RemoteExecutionError:\nTraceback (most recent call last):\nValueError: x"
    assert error.remote_data.startswith("Traceback")


def test_a_task_that_failed_by_our_code_says_what_to_do() -> None:
    error = TaskExecutionFailed("TASK_LOST: The worker ended.", code="TASK_LOST")
    assert error.code is Code.TASK_LOST
    assert str(error).count("TASK_LOST") == 1
    assert "Submit again" in str(error)


def test_a_serialization_problem_at_the_worker_gets_advice() -> None:
    error = TaskExecutionFailed("Traceback\n_pickle.UnpicklingError: bad", code="RemoteExecutionError")
    assert "PureSourceTextInspect" in str(error)
