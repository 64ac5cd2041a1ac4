"""Packed buffers: `<length in characters>\\n<buffer>`, any number in a row (protocol: serialization)."""

from __future__ import annotations

from collections.abc import Iterable

from mep.base.codes import Code
from mep.base.errors import InputError


def pack(buffers: Iterable[str]) -> str:
    """Return the buffers in a row, each behind its length. Lengths count characters, not bytes."""
    return "".join(f"{len(buffer)}\n{buffer}" for buffer in buffers)


def unpack(packed: str) -> list[str]:
    """Return the buffers of `packed`; InputError(TASK_MALFORMED) if a length is wrong or missing."""
    buffers, at = [], 0
    while at < len(packed):
        end = packed.find("\n", at, at + 20)
        digits = packed[at:end]
        if end < 0 or not digits.isascii() or not digits.isdigit():
            raise InputError(Code.TASK_MALFORMED, f"No buffer length at character {at} of the packed text.")
        start, length = end + 1, int(digits)
        if start + length > len(packed):
            raise InputError(
                Code.TASK_MALFORMED,
                f"The buffer at character {at} says {length} characters; {len(packed) - start} are there.",
            )
        buffers.append(packed[start : start + length])
        at = start + length
    return buffers
