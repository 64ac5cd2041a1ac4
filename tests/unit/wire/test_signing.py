"""Signatures: only the pinned key, only this endpoint, only now."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.wire import signing
from mep.wire.limits import COMMAND_MAX_SKEW_S, MAX_TOKEN_BYTES
from mep.wire.signing import StartClaims

NOW = 1_900_000_000.0
KEY = Ed25519PrivateKey.generate()
PUBLIC = signing.public_key(KEY)
PINNED = {PUBLIC.kid: PUBLIC}


def claims(**changes: Any) -> StartClaims:
    made = StartClaims(
        aud="endpoint-1", jti="j1", iat=NOW, exp=NOW + 60, uep="u", sub="i", username="alice@example.org",
        ids=[{"sub": "i", "username": "alice@example.org"}], sha256=signing.body_digest(b"body"),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def verify(token: str, *, now: float = NOW, audience: str = "endpoint-1") -> StartClaims:
    return signing.verify(token, PINNED, audience=audience, now=now)


def refused(token: str, code: Code, *, now: float = NOW, audience: str = "endpoint-1") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        verify(token, now=now, audience=audience)
    assert caught.value.code is code
    return caught.value


def test_a_signed_command_is_verified_whole() -> None:
    assert verify(signing.sign(claims(), KEY)) == claims()


def test_another_endpoints_command_is_refused() -> None:
    refused(signing.sign(claims(), KEY), Code.COMMAND_BAD_SIGNATURE, audience="endpoint-2")


@pytest.mark.parametrize("skew_s", [-179, 179])
def test_skew_of_179_s_is_accepted(skew_s: float) -> None:
    verify(signing.sign(claims(), KEY), now=NOW + skew_s)


@pytest.mark.parametrize("skew_s", [-181, 181])
def test_skew_of_181_s_is_refused_and_named(skew_s: float) -> None:
    error = refused(signing.sign(claims(exp=NOW + 9999), KEY), Code.COMMAND_STALE, now=NOW + skew_s)
    assert f"{skew_s:+d} s" in str(error)
    assert str(COMMAND_MAX_SKEW_S) in str(error)


def test_an_expired_command_is_refused_within_the_skew_too() -> None:
    token = signing.sign(claims(iat=NOW, exp=NOW - COMMAND_MAX_SKEW_S - 1), KEY)
    refused(token, Code.COMMAND_STALE)


@pytest.mark.parametrize("field", ["iat", "exp"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_times_that_are_no_times_are_refused(field: str, value: float) -> None:
    payload = msgspec.to_builtins(claims()) | {field: value}
    token = jwt.encode(payload, KEY, algorithm="EdDSA", headers={"kid": PUBLIC.kid})
    with pytest.raises(RefusedError):
        verify(token)


def test_an_unknown_key_is_refused_by_name() -> None:
    error = refused(signing.sign(claims(), Ed25519PrivateKey.generate()), Code.COMMAND_BAD_SIGNATURE)
    assert PUBLIC.kid in error.for_admin()
    assert PUBLIC.kid not in error.for_user()


def test_another_key_under_the_pinned_name_is_refused() -> None:
    token = jwt.encode(
        msgspec.to_builtins(claims()), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": PUBLIC.kid}
    )
    refused(token, Code.COMMAND_BAD_SIGNATURE)


def test_tampered_claims_are_refused() -> None:
    head, body, signature = signing.sign(claims(), KEY).split(".")
    payload = json.loads(base64.urlsafe_b64decode(body + "=="))
    payload["ids"] = [{"sub": "root"}]
    forged = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    refused(f"{head}.{forged}.{signature}", Code.COMMAND_BAD_SIGNATURE)


def test_alg_none_is_refused() -> None:
    token = jwt.encode(msgspec.to_builtins(claims()), "", algorithm="none", headers={"kid": PUBLIC.kid})
    refused(token, Code.COMMAND_BAD_SIGNATURE)


@pytest.mark.parametrize("secret", [bytes.fromhex(PUBLIC.x), PUBLIC.x.encode()], ids=["raw", "hex"])
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_the_public_key_as_a_shared_secret_is_refused(secret: bytes) -> None:
    token = jwt.encode(msgspec.to_builtins(claims()), secret, algorithm="HS256", headers={"kid": PUBLIC.kid})
    refused(token, Code.COMMAND_BAD_SIGNATURE)


def test_an_oversize_token_is_refused_unread() -> None:
    big = claims(ids=[{"sub": "i", "pad": "x" * MAX_TOKEN_BYTES}])
    error = refused(signing.sign(big, KEY), Code.COMMAND_BAD_SIGNATURE)
    assert "bytes" in error.for_admin()


@pytest.mark.parametrize("name", ["aud", "jti", "iat", "exp", "uep", "sub", "ids", "sha256"])
def test_a_missing_claim_is_refused(name: str) -> None:
    payload = {k: v for k, v in msgspec.to_builtins(claims()).items() if k != name}
    token = jwt.encode(payload, KEY, algorithm="EdDSA", headers={"kid": PUBLIC.kid})
    refused(token, Code.COMMAND_BAD_SIGNATURE)


def test_the_digest_binds_the_body() -> None:
    assert signing.body_digest(b"body") != signing.body_digest(b"body ")
    assert signing.body_digest(memoryview(b"body")) == signing.body_digest(b"body")


@given(st.text(max_size=200))
def test_any_text_is_refused(token: str) -> None:
    refused(token, Code.COMMAND_BAD_SIGNATURE)


@given(st.integers(0, 600), st.characters(codec="ascii"))
def test_one_changed_character_is_refused(at: int, character: str) -> None:
    token = signing.sign(claims(), KEY)
    at %= len(token)
    changed = token[:at] + character + token[at + 1 :]
    if changed == token:
        return
    try:
        assert verify(changed) == claims()  # the last base64 character has bits that mean nothing
    except RefusedError as error:
        assert error.code is Code.COMMAND_BAD_SIGNATURE


def test_the_users_text_does_not_say_why() -> None:
    error = refused("garbage", Code.COMMAND_BAD_SIGNATURE)
    assert "garbage" not in error.for_user()
    assert "pinned" not in error.for_user()
