"""The relay's keys: made once, private, two announced after a rotation."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from mep.base.errors import HostError
from mep.relay.auth.keys import Keys, add_start_key
from mep.wire import signing
from mep.wire.signing import StartClaims


def claims() -> StartClaims:
    now = time.time()
    return StartClaims(aud="e", jti="j", iat=now, exp=now + 60, uep="u", sub="s", ids=[], sha256="00")


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    first, second = Keys(tmp_path), Keys(tmp_path)
    assert first.announced == second.announced
    assert first.broker_secret == second.broker_secret
    assert first.rsa.private_numbers() == second.rsa.private_numbers()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "keys").iterdir()} == {0o600}


def test_after_a_rotation_the_new_key_signs_and_both_are_announced(tmp_path: Path) -> None:
    (old,) = Keys(tmp_path).announced
    add_start_key(tmp_path)
    rotated = Keys(tmp_path)
    new, still = rotated.announced
    assert still == old
    assert signing.is_vouched_for(new, by=old)
    assert not signing.is_vouched_for(old, by=new)
    token = rotated.sign(claims())
    assert signing.verify(token, {new.kid: new}, audience="e", now=time.time()).uep == "u"
    add_start_key(tmp_path)
    assert old not in Keys(tmp_path).announced, "two at most"


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    Keys(tmp_path)
    (tmp_path / "keys" / "start-1.pem").write_text("garbage")
    with pytest.raises(HostError, match=r"start-1\.pem"):
        Keys(tmp_path)
