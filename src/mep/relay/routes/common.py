"""What every route uses: the relay, the caller, JSON out, and the schemas shown in /docs."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request, Response

from mep.relay.errors import HttpError, malformed
from mep.relay.service import Relay
from mep.relay.store.accounts import Identity
from mep.wire.command import encode_secret

_encoder = msgspec.json.Encoder(enc_hook=encode_secret)


def relay_of(request: Request) -> Relay:
    relay = request.app.state.relay
    assert isinstance(relay, Relay)
    return relay


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


def takes(kind: Any) -> dict[str, Any]:
    """Return what /docs says about a body that the route decodes itself."""
    (schema,), parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    text = msgspec.json.encode({**_inlined(schema, parts)})
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": msgspec.json.decode(text)}}}
    }


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {key: _inlined(value, parts) for key, value in schema.items()}
    return [_inlined(value, parts) for value in schema] if isinstance(schema, list) else schema
