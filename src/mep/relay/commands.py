"""The start command of one user endpoint, and its signature."""

from __future__ import annotations

import json
import time

from msgspec import UNSET

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.relay.auth.keys import Keys
from mep.relay.store.accounts import Identity
from mep.relay.store.ueps import UepRecord
from mep.wire.command import START, AmqpCreds, StartArguments, StartCommand, encode
from mep.wire.signing import StartClaims, body_digest

VALID_S = 150.0  # less than the skew that endpoints allow: a command that waited longer is dropped, not refused


def identity_document(identity: Identity) -> dict[str, object]:
    """Return the whole identity as mappings see it; `status` must be "used" or nothing maps."""
    domain = identity.username.rpartition("@")[2]
    return {
        "id": identity.id,
        "sub": identity.id,
        "username": identity.username,
        "name": identity.name,
        "email": identity.email or None,
        "organization": domain or None,
        "identity_provider": domain or "local",
        "identity_provider_display_name": domain or "local",
        "identity_type": "login",
        "last_authentication": int(identity.created),
        "status": "used",
    }


def start_command(
    record: UepRecord,
    identity: Identity,
    creds: AmqpCreds,
    keys: Keys,
    *,
    kid: str = "",
    seal_key: Secret | None = None,
    request_id: str = "",
) -> tuple[bytes, str]:
    """Return the command's body and the JWT for its header. `kid`: the key that signs. `seal_key`: for user
    endpoints that can seal."""
    identities = [identity_document(identity)]
    body = encode(
        StartCommand(
            command=START,
            kwargs=StartArguments(
                name=f"uep.{record.endpoint_id}.{record.id}",
                amqp_creds=creds,
                user_opts=json.loads(record.options),
                user_runtime=json.loads(record.runtime),
                seal_key=seal_key if seal_key is not None else UNSET,
            ),
            globus_effective_identity=identity.id,
            globus_username=identity.username,
            globus_identity_set=identities,
        )
    )
    now = time.time()
    claims = StartClaims(
        aud=record.endpoint_id,
        jti=request_id or new_id(),
        iat=now,
        exp=now + VALID_S,
        uep=record.id,
        sub=identity.id,
        username=identity.username,
        ids=identities,
        sha256=body_digest(body),
    )
    return body, keys.sign(claims, kid)
