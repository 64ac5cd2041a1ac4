"""The start command: the relay's message "identity I wants user endpoint U with options O".

Bare JSON, not enveloped, with AMQP properties `content_type: application/json` and `timestamp` (Unix seconds);
ours also carries the signature in the header `mep-signature` (see `signing`). Protocol: start command.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.wire.limits import MAX_COMMAND_BYTES

CONTENT_TYPE: Final = "application/json"
HEADER_SIGNATURE: Final = "mep-signature"
START: Final = "cmd_start_endpoint"


class QueueInfo(Struct, frozen=True, kw_only=True):
    """Where to consume or publish, and as whom. `queue_publish_kwargs` holds the publish call's arguments."""

    connection_url: Secret
    exchange: str = ""
    queue: str = ""
    queue_publish_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)


class AmqpCreds(Struct, frozen=True, kw_only=True):
    """A user endpoint's broker credentials, and its id."""

    endpoint_id: str
    task_queue_info: QueueInfo
    result_queue_info: QueueInfo
    heartbeat_queue_info: QueueInfo | None = None


class StartArguments(Struct, frozen=True, kw_only=True):
    """What the start is about. `user_opts` and `user_runtime` are the user's and are read only after the drop.

    `seal_key` is ours, and only for endpoints of ours: what the user endpoint's messages are sealed with.
    """

    name: str
    amqp_creds: AmqpCreds
    user_opts: dict[str, Any] = msgspec.field(default_factory=dict)
    user_runtime: dict[str, Any] = msgspec.field(default_factory=dict)
    seal_key: Secret | UnsetType = UNSET


class StartCommand(Struct, frozen=True, kw_only=True):
    """The whole command. `globus_identity_set` is what the mapping sees, in order."""

    command: str
    kwargs: StartArguments
    globus_effective_identity: str
    globus_username: str = ""
    globus_identity_set: list[dict[str, Any]]
    args: list[Any] = msgspec.field(default_factory=list)


def encode_secret(value: object) -> str:
    """Hook for encoders of structs that hold a Secret; the only place that reveals one on purpose here."""
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def decode_secret(kind: type, value: object) -> Secret:
    """Hook for decoders of structs that hold a Secret."""
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise ValueError("expected a text")


_encoder = msgspec.json.Encoder(enc_hook=encode_secret)
_decoder = msgspec.json.Decoder(StartCommand, dec_hook=decode_secret)


def encode(command: StartCommand) -> bytes:
    """Return the command's JSON."""
    return _encoder.encode(command)


def decode(body: bytes) -> StartCommand:
    """Return the start command in `body`.

    InputError: COMMAND_TOO_LARGE above MAX_COMMAND_BYTES, COMMAND_MALFORMED with path and wanted type otherwise.
    """
    if len(body) > MAX_COMMAND_BYTES:
        raise InputError(
            Code.COMMAND_TOO_LARGE, f"The command has {len(body)} bytes; {MAX_COMMAND_BYTES} are allowed."
        )
    try:
        command = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(Code.COMMAND_MALFORMED, f"Not a valid command: {error}.") from None
    if command.command != START:
        raise InputError(
            Code.COMMAND_MALFORMED, f"Invalid server command {command.command[:60]!r}; wanted {START!r}."
        )
    return command
