"""What every route uses: the relay, the caller, JSON out."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request, Response

from mep.relay.errors import HttpError, malformed
from mep.relay.service import Relay
from mep.relay.store.accounts import Identity
from mep.wire.command import encode_secret
from mep.wire.rest import HEADER_SEALS

_encoder = msgspec.json.Encoder(enc_hook=encode_secret)


def relay_of(request: Request) -> Relay:
    relay = request.app.state.relay
    assert isinstance(relay, Relay)
    return relay


def can_seal(request: Request) -> bool:
    """Tell whether the caller opens and seals (see `wire.seal`); stock parts do not say so."""
    return request.headers.get(HEADER_SEALS) == "1"


async def caller(request: Request) -> Identity:
    """Return who calls; HttpError 401, 403, or 429 for one who calls too often."""
    relay = relay_of(request)
    identity = await relay.authenticator.user(request.headers.get("authorization"))
    relay.limit.check(identity.id)
    return identity


def answer(value: Any, status: int = 200) -> Response:
    """Return `value` as JSON; bytes are JSON already."""
    content = value if isinstance(value, bytes) else _encoder.encode(value)
    return Response(content, status_code=status, media_type="application/json")


async def body_as(request: Request, decoder: msgspec.json.Decoder[Any]) -> Any:
    """Return the decoded body; HttpError 422 names path and wanted type."""
    try:
        return decoder.decode(await request.body() or b"{}")
    except msgspec.ValidationError as error:
        raise HttpError(422, "SEMANTICALLY_INVALID", f"The request is not valid: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"The request is not JSON: {error}.") from None
