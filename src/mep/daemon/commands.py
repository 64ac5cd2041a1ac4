"""Reading start commands, where there is no privilege: from a delivery to what the monitor is asked."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import InputError, MepError
from mep.base.ids import is_uuid, new_id
from mep.broker import Delivery
from mep.wire import command as wire
from mep.wire import sealed, signing
from mep.wire.command import QueueInfo
from mep.wire.decoding import INVALID
from mep.wire.limits import COMMAND_MAX_SKEW_S, MAX_COMMAND_BYTES, MAX_TOKEN_BYTES
from mep.wire.privsep import Start
from mep.wire.seal import Sealer, SealError
from mep.wire.signing import StartClaims

_F_ADD_SEALS: Final = 1033
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_LENIENT_BYTES: Final = 4 * MAX_COMMAND_BYTES


class Dropped(InputError):
    """Nobody can be told about this message: it is logged, acknowledged and forgotten."""


class Unsealed(Dropped):
    """It is not sealed by the relay: whoever has the broker may have made it."""


class Refused(Exception):
    """The command is not passed on, and its user endpoint's submitter is told why."""

    def __init__(self, error: MepError, uep_id: str, reply_to: QueueInfo | None, request_id: str = "") -> None:
        super().__init__(str(error))
        self.error, self.uep_id, self.reply_to, self.request_id = error, uep_id, reply_to, request_id


@dataclass(frozen=True)
class Read:
    """A command that may be put before the monitor. `reply_to`: the user endpoint's own way to the relay."""

    request_id: str
    uep_id: str
    start: Start
    body: bytes
    reply_to: QueueInfo | None

    def payload_fd(self) -> int:
        """Return a sealed memfd with the body: nobody can change it any more. The caller closes it."""
        fd = os.memfd_create("start", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, self.body)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
        return fd


def read(
    delivery: Delivery, *, endpoint_id: str, now: float, taken: Container[str] = (), sealer: Sealer | None = None
) -> Read:
    """Return the start command in `delivery`; Dropped, or Refused if its user endpoint is known.

    With a `sealer` only what it opens is a command. The request's id is the relay's own where it gave one that is
    not `taken`: one id names the request from the submit to the last log line.
    """
    sent, token, body = _plain(delivery) if sealer is None else _opened(delivery, sealer)
    request_id = _id_in(token)
    if not is_uuid(request_id) or request_id in taken:
        request_id = new_id()
    try:
        command = wire.decode(body)
    except InputError as error:
        uep_id, reply_to = _who_asks(body)
        if not uep_id:
            raise Dropped(error.code, error.user_text) from None
        raise Refused(error, uep_id, reply_to, request_id) from None
    creds = command.kwargs.amqp_creds
    claims = StartClaims(
        aud=endpoint_id,
        jti=request_id,
        iat=sent,
        exp=sent + COMMAND_MAX_SKEW_S,
        uep=creds.endpoint_id,
        sub=command.globus_effective_identity,
        username=command.globus_username,
        ids=command.globus_identity_set,
        sha256=signing.body_digest(body),
    )
    try:
        if not is_uuid(creds.endpoint_id):
            raise Dropped(Code.COMMAND_MALFORMED, f"The id {creds.endpoint_id[:60]!r} is no UUID.")
        signing.check_times(claims.iat, claims.exp, now=now)
        start = _start(request_id, token, claims)
    except Dropped:
        raise
    except MepError as error:
        raise Refused(error, creds.endpoint_id, creds.heartbeat_queue_info, request_id) from None
    return Read(request_id, creds.endpoint_id, start, body, creds.heartbeat_queue_info)


def _plain(delivery: Delivery) -> tuple[float, Any, bytes]:
    """Return when it was sent, its signature and its body, of a command in stock form."""
    properties = delivery.properties
    if properties.content_type != wire.CONTENT_TYPE:
        raise Dropped(Code.COMMAND_MALFORMED, f"Content type {properties.content_type!r}; wanted JSON.")
    if not isinstance(properties.timestamp, int):
        raise Dropped(Code.COMMAND_MALFORMED, "The command has no timestamp.")
    token = delivery.headers.get(wire.HEADER_SIGNATURE)
    if isinstance(token, bytes):
        token = token.decode("ascii", errors="replace")
    return float(properties.timestamp), token, delivery.body


def _opened(delivery: Delivery, sealer: Sealer) -> tuple[float, str, bytes]:
    """The same of a sealed command."""
    try:
        stamp, content = sealer.open(delivery.body)
    except SealError as error:
        raise Unsealed(Code.COMMAND_BAD_SIGNATURE, f"The relay seals its commands; of this one {error}.") from None
    try:
        command = sealed.decode_command(content)
    except InputError as error:
        raise Dropped(error.code, error.user_text) from None
    return stamp.issued, command.token, command.body


def _id_in(token: Any) -> str:
    """Return the unique id in a signature. It names the request; whether it is true, the monitor finds out."""
    try:
        payload = str(token).split(".")[1]
        return _unique_of(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).jti
    except (IndexError, ValueError, *INVALID):
        return ""


def _start(request_id: str, token: Any, claims: StartClaims) -> Start:
    if isinstance(token, str) and token:
        if len(token) > MAX_TOKEN_BYTES:
            raise InputError(
                Code.COMMAND_TOO_LARGE, f"The signature has {len(token)} bytes; {MAX_TOKEN_BYTES} are allowed."
            )
        return Start(request_id=request_id, token=token)
    encoded = msgspec.json.encode(claims)
    if len(encoded) > MAX_TOKEN_BYTES:
        raise InputError(
            Code.COMMAND_TOO_LARGE, f"The identity set has {len(encoded)} bytes; {MAX_TOKEN_BYTES} are allowed."
        )
    return Start(request_id=request_id, claims=encoded)


# ---- whom to tell about a command that cannot be read ----


class _Unique(Struct):
    jti: str


_unique_of = msgspec.json.Decoder(_Unique).decode


class _Creds(Struct):
    endpoint_id: str
    heartbeat_queue_info: QueueInfo | None = None


class _Arguments(Struct):
    amqp_creds: _Creds


class _Asker(Struct):
    kwargs: _Arguments


_asker_of = msgspec.json.Decoder(_Asker, dec_hook=wire.decode_secret).decode


def _who_asks(body: bytes) -> tuple[str, QueueInfo | None]:
    """Return the user endpoint's id and its way to the relay, if as much can be read."""
    if len(body) > _LENIENT_BYTES:
        return "", None
    try:
        creds = _asker_of(body).kwargs.amqp_creds
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None
    return (creds.endpoint_id, creds.heartbeat_queue_info) if is_uuid(creds.endpoint_id) else ("", None)
