"""Errors keep their two texts apart, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from mep.base.codes import NEXT_STEPS, Code, next_step
from mep.base.errors import HostError, InputError, MepError, RefusedError, ServiceError, TaskError

KINDS = [InputError, RefusedError, HostError, ServiceError, TaskError]


@pytest.mark.parametrize("kind", KINDS)
def test_error_survives_pickling_whole(kind: type[MepError]) -> None:
    error = kind(Code.IDENTITY_NO_ACCOUNT, "no account", admin_text="alice@x -> 'al': no such account", step="go")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.code, back.user_text, back.admin_text, back.step) == (
        error.code,
        error.user_text,
        error.admin_text,
        error.step,
    )


def test_user_text_does_not_show_what_the_administrator_reads() -> None:
    error = RefusedError(Code.IDENTITY_NO_ACCOUNT, "No account here.", admin_text="rule 2 gave 'svc-al'")
    assert "svc-al" not in str(error)
    assert "svc-al" not in error.for_user()
    assert "svc-al" in error.for_admin()


def test_administrator_reads_the_users_text_where_there_is_no_other() -> None:
    assert InputError(Code.OPTIONS_INVALID, "n: 3").admin_text == "n: 3"


def test_message_is_code_what_and_next_step() -> None:
    error = RefusedError(Code.ENDPOINT_DRAINING, "The endpoint 'x' is draining.")
    assert str(error).startswith("ENDPOINT_DRAINING: The endpoint 'x' is draining. ")
    assert str(error).endswith(next_step(Code.ENDPOINT_DRAINING).user)


@pytest.mark.parametrize("code", list(Code))
def test_every_code_is_its_own_name_and_has_next_steps_in_sentences(code: Code) -> None:
    assert code.value == code.name
    for text in next_step(code):
        assert text == text.strip()
        assert not text or text.endswith(".")


def test_next_steps_name_only_codes_that_exist() -> None:
    assert set(NEXT_STEPS) <= set(Code)
