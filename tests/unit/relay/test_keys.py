"""The relay's keys: made once, private, two announced after a rotation."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from mep.base.errors import HostError
from mep.relay.auth.keys import Keys, add_start_key
from mep.wire import signing
from mep.wire.keys import PublicKey
from mep.wire.signing import StartClaims


def claims() -> StartClaims:
    now = time.time()
    return StartClaims(aud="e", jti="j", iat=now, exp=now + 60, uep="u", sub="s", ids=[], sha256="00")


def signs(keys: Keys, kid: str, wanted: PublicKey) -> bool:
    token = keys.sign(claims(), kid)
    return signing.verify(token, {wanted.kid: wanted}, audience="e", now=time.time()).uep == "u"


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    first, second = Keys(tmp_path), Keys(tmp_path)
    assert first.announced() == second.announced()
    assert first.broker_secret == second.broker_secret
    assert first.rsa.private_numbers() == second.rsa.private_numbers()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "keys").iterdir()} == {0o600}


def test_after_a_rotation_the_new_key_signs_and_both_are_announced(tmp_path: Path) -> None:
    (old,) = Keys(tmp_path).announced()
    add_start_key(tmp_path)
    rotated = Keys(tmp_path)
    new, still = rotated.announced(old.kid)
    assert still == old
    assert signing.is_vouched_for(new, by=old)
    assert not signing.is_vouched_for(old, by=new)
    for kid in (new.kid, "", "of another relay"):
        assert signs(rotated, kid, new)
    add_start_key(tmp_path)
    assert old not in Keys(tmp_path).announced(), "two at most"


def test_an_endpoint_that_heard_nothing_of_rotations_gets_commands_signed_by_the_key_it_knows(
    tmp_path: Path,
) -> None:
    (old,) = Keys(tmp_path).announced()
    for _ in range(3):
        add_start_key(tmp_path)
    keys, pinned = Keys(tmp_path), {old.kid: old}
    for _ in range(4):
        assert signs(keys, old.kid, old)
        new, known = keys.announced(old.kid)
        assert pinned[known.kid].x == known.x
        assert new.kid in pinned or signing.is_vouched_for(new, by=pinned[known.kid])
        pinned, old = {new.kid: new, known.kid: known}, new
    assert old == keys.announced()[0]


def test_the_key_before_one_is_found(tmp_path: Path) -> None:
    for _ in range(3):
        add_start_key(tmp_path)
    keys = Keys(tmp_path)
    newest, middle = (key.kid for key in keys.announced())
    assert [keys.before("", 0), keys.before(newest, 1), keys.before(middle, 2)] == [newest, middle, None]


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    Keys(tmp_path)
    (tmp_path / "keys" / "start-1.pem").write_text("garbage")
    with pytest.raises(HostError, match=r"start-1\.pem"):
        Keys(tmp_path)
