"""What is inside sealed messages that have another form than the stock's: tasks and start commands. msgpack.

Results and reports hold their stock envelope.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.wire.decoding import INVALID


class SealedTask(Struct, frozen=True, array_like=True):
    """A task, with all that the stock form says in AMQP headers."""

    task_id: str
    function_id: str
    buffer: str
    resources: dict[str, Any]
    serializers: list[str]


class SealedCommand(Struct, frozen=True, array_like=True):
    """A start command's signature and body."""

    token: str
    body: bytes


encode = msgspec.msgpack.Encoder().encode
_task = msgspec.msgpack.Decoder(SealedTask).decode
_command = msgspec.msgpack.Decoder(SealedCommand).decode


def decode_task(content: bytes) -> SealedTask:
    """InputError(TASK_MALFORMED) names what was wrong."""
    try:
        return _task(content)
    except INVALID as error:
        raise InputError(Code.TASK_MALFORMED, f"Not a valid task: {error}.") from None


def decode_command(content: bytes) -> SealedCommand:
    """InputError(COMMAND_MALFORMED) names what was wrong."""
    try:
        return _command(content)
    except INVALID as error:
        raise InputError(Code.COMMAND_MALFORMED, f"Not a valid command: {error}.") from None
