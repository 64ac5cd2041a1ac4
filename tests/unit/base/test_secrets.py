"""A Secret shows in no message, no traceback, no pickle."""

from __future__ import annotations

import json
import logging
import pickle
import traceback

import msgspec
import pytest

from mep.base.secrets import Secret, without_password

PLANTED = "s3cr3t-planted-xyzzy"


def test_secret_shows_in_no_formatting() -> None:
    secret = Secret(PLANTED)
    shown = f"{secret} {secret!r} {secret!s} %s {[secret]} { ({'k': secret}) }" % secret
    assert PLANTED not in shown
    assert PLANTED not in str(vars(type(secret)))


def test_secret_shows_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("t").debug("url %s and %r", Secret(PLANTED), {"a": Secret(PLANTED)})
    assert "***" in caplog.text
    assert PLANTED not in caplog.text


def test_secret_shows_in_no_traceback_with_locals() -> None:
    def fail(secret: Secret) -> None:
        kept = secret
        raise RuntimeError(f"no connection with {kept}")

    with pytest.raises(RuntimeError) as caught:
        fail(Secret(PLANTED))
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert PLANTED not in "".join(shown)


def test_secret_is_not_pickled_nor_encoded_by_accident() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(PLANTED))
    with pytest.raises(TypeError):
        json.dumps(Secret(PLANTED))
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret(PLANTED))


def test_secret_has_no_dict_to_look_into() -> None:
    assert not hasattr(Secret(PLANTED), "__dict__")


def test_fingerprint_recognises_without_giving_away() -> None:
    assert Secret(PLANTED).fingerprint() == Secret(PLANTED).fingerprint()
    assert Secret(PLANTED).fingerprint() != Secret(PLANTED + "1").fingerprint()
    assert len(Secret(PLANTED).fingerprint()) == 8


def test_secrets_compare_by_text_and_only_with_secrets() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("ä") == Secret("ä")
    assert Secret("a") != "a"
    assert {Secret("a"): 1}[Secret("a")] == 1
    assert not Secret("")
    assert Secret("a")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:pw@h:5672/%2F?heartbeat=30", "amqp://u:***@h:5672/%2F?heartbeat=30"),
        ("amqp://u:p%40w@h/", "amqp://u:***@h/"),
        ("http://h/path", "http://h/path"),
        ("amqp://u@h/", "amqp://u@h/"),
        ("amqp://u:@h/", "amqp://u:***@h/"),
    ],
)
def test_urls_lose_their_password_and_nothing_else(url: str, shown: str) -> None:
    assert without_password(url) == shown
