"""Seals open for whom, and for what, they were made, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.secrets import Secret
from mep.wire import seal
from mep.wire.envelope import StatusReport, encode
from mep.wire.seal import Sealer, SealError, derive, is_sealed

KEY, OTHER = derive(Secret("relay"), "user endpoint", "u", 1), derive(Secret("relay"), "user endpoint", "u", 2)
PURPOSES = (seal.COMMAND, seal.NOTICE, seal.TASK, seal.RESULT, seal.REPORT, seal.DELIVERY)


def sealer(key: Secret = KEY, purpose: str = seal.TASK, channel: str = "u") -> Sealer:
    return Sealer(key, purpose, channel)


@given(st.binary(max_size=200))
def test_what_is_sealed_opens_on_the_other_side_with_its_stamp(content: bytes) -> None:
    mine, theirs = sealer(), sealer()
    stamps = []
    for _ in range(3):
        stamp, opened = theirs.open(mine.seal(content))
        assert opened == content
        stamps.append(stamp)
    assert [stamp.number for stamp in stamps] == [1, 2, 3]
    assert len({stamp.sender for stamp in stamps}) == 1
    assert theirs.open(theirs.seal(b""))[0].sender != stamps[0].sender


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_flipped_bit_anywhere_does_not_open(content: bytes, data: st.DataObject) -> None:
    message = bytearray(sealer().seal(content))
    at = data.draw(st.integers(0, 8 * len(message) - 1))
    message[at // 8] ^= 1 << at % 8
    with pytest.raises(SealError):
        sealer().open(bytes(message))


@given(st.binary(max_size=100), st.data())
def test_what_is_cut_or_lengthened_does_not_open(content: bytes, data: st.DataObject) -> None:
    message = sealer().seal(content)
    cut = data.draw(st.integers(0, len(message) - 1))
    for changed in (message[:cut], message[cut + 1 :], message + b"\0"):
        with pytest.raises(SealError):
            sealer().open(changed)


@given(st.binary(max_size=300))
def test_anything_else_does_not_open(message: bytes) -> None:
    for tried in (message, seal.VERSION + message):
        with pytest.raises(SealError):
            sealer().open(tried)


def test_another_key_channel_or_purpose_does_not_open() -> None:
    message = sealer().seal(b"content")
    for stranger in (sealer(OTHER), sealer(channel="v"), *(sealer(purpose=p) for p in PURPOSES if p != seal.TASK)):
        with pytest.raises(SealError, match="belongs here"):
            stranger.open(message)


def test_a_plain_message_is_told_from_a_sealed_one_and_does_not_open() -> None:
    plain = encode(StatusReport(endpoint_id="u"))
    assert not is_sealed(plain)
    assert not is_sealed(b'{"command": "cmd_start_endpoint"}')
    assert is_sealed(sealer().seal(plain))
    with pytest.raises(SealError, match="not sealed"):
        sealer().open(plain)


def test_nothing_of_the_content_shows_and_equal_contents_do_not() -> None:
    first, second = sealer().seal(b"planted" * 10), sealer().seal(b"planted" * 10)
    assert b"planted" not in first
    assert first[1:] != second[1:]
    assert not any(first[i : i + 16] in second for i in range(1, len(first) - 16))


def test_keys_differ_by_each_part_and_do_not_run_together() -> None:
    secret = Secret("relay")
    keys = [
        derive(secret, "a", "bc"),
        derive(secret, "ab", "c"),
        derive(secret, "a", "bc", 1),
        derive(Secret("b"), "a"),
    ]
    assert len({key.reveal() for key in keys}) == len(keys)
    assert derive(secret, "a", "bc").reveal() == keys[0].reveal()


def test_a_sealer_shows_no_key() -> None:
    assert KEY.reveal() not in repr(vars(sealer()))
