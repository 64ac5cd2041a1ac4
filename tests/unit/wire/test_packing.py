"""Packed buffers: lengths count characters, and nothing but what was packed comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.wire.packing import pack, unpack

BUFFERS = st.lists(st.text(max_size=60), max_size=6)


@given(BUFFERS)
def test_what_is_packed_comes_out(buffers: list[str]) -> None:
    assert unpack(pack(buffers)) == buffers


@given(BUFFERS, BUFFERS)
def test_packed_texts_can_be_joined(one: list[str], other: list[str]) -> None:
    """The relay joins a function's buffer and a submit's two buffers without reading them."""
    assert unpack(pack(one) + pack(other)) == one + other


@given(st.text(max_size=200))
def test_any_text_is_unpacked_or_refused(text: str) -> None:
    try:
        buffers = unpack(text)
    except InputError as error:
        assert error.code is Code.TASK_MALFORMED
    else:
        assert sum(map(len, buffers)) <= len(text)


def test_the_form_is_the_protocols() -> None:
    assert pack(["11\n[1, 2]", "11\n{}"]) == "9\n11\n[1, 2]5\n11\n{}"
    assert pack(["ü€😀"]) == "3\nü€😀"


@pytest.mark.parametrize(
    "text", ["5\nabc", "x\nabc", "-1\nabc", "3abc", "\nabc", "²\nab", "1" * 30 + "\nx", "+3\nabc"]
)
def test_wrong_lengths_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        unpack(text)
