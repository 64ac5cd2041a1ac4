"""Seals: what passes the broker between two of our parts, closed to whoever has the broker.

A sealed message: 0xA5, a nonce of 12 random bytes, and by AES-256-GCM the stamp (`Stamp`: sender, number, time)
and the content. The first byte tells it from every plain message. A key belongs to one part (endpoint, user
endpoint, SDK user); each purpose and channel has a key of its own below that one, and is bound as associated data,
too: a message that was recorded in one place opens in no other.

Nonces are random, not counted, because a copied machine would count twice. After 2**32 messages under one key (25
days at 2,000 each second) two nonces are the same with a probability of 2**-33.
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mep.base.secrets import Secret

VERSION: Final = b"\xa5"

#: Purposes. The channel is the id in brackets.
COMMAND: Final = "mep command 1"  # relay to gate: start commands (endpoint)
NOTICE: Final = "mep notice 1"  # gate to relay: heartbeats, ends, failed starts (endpoint)
TASK: Final = "mep task 1"  # relay to user endpoint (user endpoint)
RESULT: Final = "mep result 1"  # user endpoint to relay (user endpoint)
REPORT: Final = "mep report 1"  # user endpoint to relay (user endpoint)
DELIVERY: Final = "mep delivery 1"  # relay to SDK: results (task group)

_NONCE_BYTES: Final = 12
_SENDER_BYTES: Final = 16
_STAMP: Final = struct.Struct(">16sQd")
_HEAD_BYTES: Final = len(VERSION) + _NONCE_BYTES
_LEAST_BYTES: Final = _HEAD_BYTES + _STAMP.size + 16


class SealError(Exception):
    """A message that is not sealed, or not by whom and for what it should be. The text is for a log."""


class Stamp(NamedTuple):
    """Which message of which sender this is. `sender` is random for each life of one; `number` counts from 1;
    `issued` in Unix seconds, by the sender's clock."""

    sender: bytes
    number: int
    issued: float


class Sealer:
    """One purpose of one channel: seals what goes out, opens what comes in. Make a new one after a fork."""

    def __init__(self, key: Secret, purpose: str, channel: str) -> None:
        self._label = f"{purpose}\0{channel}".encode()
        self._cipher = AESGCM(hmac.digest(bytes.fromhex(key.reveal()), self._label, "sha256"))
        self._sender = os.urandom(_SENDER_BYTES)
        self._number = 0

    def seal(self, content: bytes) -> bytes:
        """Return `content`, stamped with the next number and sealed."""
        self._number += 1
        stamp = _STAMP.pack(self._sender, self._number, time.time())
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((VERSION, nonce, self._cipher.encrypt(nonce, stamp + content, self._label)))

    def open(self, message: bytes) -> tuple[Stamp, bytes]:
        """Return stamp and content; SealError if it is not ours, or not whole."""
        if not is_sealed(message):
            raise SealError("it is not sealed")
        if len(message) < _LEAST_BYTES:
            raise SealError(f"it has {len(message)} bytes; a sealed message has {_LEAST_BYTES} or more")
        view = memoryview(message)
        try:
            opened = self._cipher.decrypt(view[len(VERSION) : _HEAD_BYTES], view[_HEAD_BYTES:], self._label)
        except InvalidTag:
            raise SealError("the seal is not the one that belongs here") from None
        return Stamp(*_STAMP.unpack_from(opened)), opened[_STAMP.size :]


def is_sealed(message: bytes) -> bool:
    """Tell whether `message` says that it is sealed."""
    return message[:1] == VERSION


def derive(secret: Secret, *parts: object) -> Secret:
    """Return the key that `secret` gives for `parts`, as text: 64 hex digits."""
    text = "\0".join(("mep seal key", *map(str, parts)))
    return Secret(hmac.digest(secret.reveal().encode(), text.encode(), "sha256").hex())
