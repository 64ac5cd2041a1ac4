"""A fuzz target, and mutations of what is valid: bytes, JSON and msgpack."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from mep.base.errors import MepError


@dataclass(frozen=True)
class Target:
    """One or more decoders behind a function of bytes.

    `run` may return, or raise one of `refuses`: anything else is a finding. `decoders`: what it covers, as
    "path below src/mep:function"; the architecture tests compare that with the source. `seeds`: valid inputs.
    `must_refuse_noise`: nothing random is taken. `takes_seeds`: False where a seed is well-formed and refused.
    """

    name: str
    run: Callable[[bytes], object]
    decoders: tuple[str, ...]
    seeds: tuple[bytes, ...]
    refuses: tuple[type[BaseException], ...] = (MepError,)
    must_refuse_noise: bool = False
    takes_seeds: bool = True

    def feed(self, data: bytes) -> bool:
        """Run it; True: it was taken, False: refused as promised."""
        try:
            self.run(data)
        except self.refuses as error:
            if isinstance(error, MepError):
                assert error.code, "an error without a code"
                assert len(str(error)) < 5000, "an error that repeats its input"
            return False
        return True


def as_json(*documents: Any) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


def memory_file(data: bytes) -> int:
    """Return an fd that holds `data`, for the callee to close."""
    fd = os.memfd_create("fuzz")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


# ---- mutations ----

#: What has broken decoders: as values, and as JSON texts that Python's encoder would not write.
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 1e308, -0.0),
    *("", "\0", "²", "é" * 300, "x" * 70_000, "\ud800", "a\nb", "../..", "%s", "http://[", "[" * 50),
    *([], {}, [[]], [None], {"": None}, {"a": {"a": 1}}, {"__proto__": 1}, [1] * 300),
]
RAW = [
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "0" * 50,
    r'"\ud800"',
    r'"\u0000"',
    "[" * 3000 + "]" * 3000,
    "\xff",
]
_MARK = "@here@"


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Return `seed` with a few changes: of its structure where it has one, of its bytes otherwise."""
    data = seed
    for _ in range(rng.choice((1, 1, 2, 4))):
        changed = _structure(data, rng) if rng.random() < 0.65 else None
        data = _bytes(data, rng) if changed is None else changed
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 8, 64)))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data[:at] + data[at:end] * rng.choice((2, 3, 200)) + data[end:]
    if kind == 4 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 5:
        return (
            data[:at]
            + rng.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"\xc1", b"\xdd\xff\xff\xff\xff"))
            + data[at:]
        )
    return data[:at] + rng.choice((b"{", b"[", b'"', b",", b"\\u", b"\n", b"1e9", b"[" * 2000)) + data[at:]


def _structure(data: bytes, rng: random.Random) -> bytes | None:
    """Change a value inside; None if this is neither JSON nor msgpack."""
    head, body = (data[:1], data[1:]) if data[:1] == b"\x01" else (b"", data)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return _packed(data, rng)
    if rng.random() < 0.3:
        text = json.dumps(_replaced(document, _MARK, rng))
        return head + text.replace(f'"{_MARK}"', rng.choice(RAW), 1).encode("utf-8", "surrogateescape")
    try:
        return head + json.dumps(_replaced(document, rng.choice(VALUES), rng)).encode()
    except RecursionError:
        return data


def _packed(data: bytes, rng: random.Random) -> bytes | None:
    try:
        document = msgspec.msgpack.decode(data)
        return msgspec.msgpack.encode(_replaced(document, rng.choice(VALUES), rng))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError):
        return None


def _replaced(document: Any, value: Any, rng: random.Random) -> Any:
    """Return a copy with one thing different, somewhere."""
    if isinstance(document, dict) and document and rng.random() < 0.9:
        key = rng.choice(list(document))
        rest = {k: v for k, v in document.items() if k != key}
        kind = rng.random()
        if kind < 0.08:
            return rest
        if kind < 0.16:
            return {**document, rng.choice(("new", "", "t", "\ud800", "x" * 300)): value}
        return {**document, key: _replaced(document[key], value, rng)}
    if isinstance(document, list) and document and rng.random() < 0.9:
        at = rng.randrange(len(document))
        if rng.random() < 0.15:
            return [*document[:at], *document[at + 1 :], *([value] * rng.randrange(3))]
        return [*document[:at], _replaced(document[at], value, rng), *document[at + 1 :]]
    return value
