"""Signed start commands: an EdDSA JWT whose claims bind a command's body to one endpoint, identity and time.

Header: `alg: EdDSA`, `kid`. Claims (`StartClaims`): `aud` the endpoint's id, `jti` unique, `iat`/`exp` Unix
seconds, `uep` the user endpoint's id, `ids` the identity set, `sha256` of the command's body in hex.
The signature is checked before any claim is looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.wire.keys import PublicKey
from mep.wire.limits import COMMAND_MAX_SKEW_S, MAX_TOKEN_BYTES

ALGORITHM: Final = "EdDSA"
_VOUCH: Final = b"mep: a key for start commands: "  # so that this signature is none of a command


class StartClaims(Struct, frozen=True, kw_only=True):
    """What the relay states about one start command; without a signature, what the gate read from it."""

    aud: str
    jti: str
    iat: float
    exp: float
    uep: str
    sub: str  # the effective identity
    username: str = ""
    ids: list[dict[str, Any]]
    sha256: str


def body_digest(body: bytes | memoryview) -> str:
    """Return the hex SHA-256 that a signature binds."""
    return hashlib.sha256(body).hexdigest()


def public_key(private: Ed25519PrivateKey) -> PublicKey:
    """Return the announcement of `private`; the kid is derived from the key."""
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return PublicKey(kid=hashlib.sha256(raw).hexdigest()[:16], x=raw.hex())


def vouch_for(key: PublicKey, by: Ed25519PrivateKey) -> PublicKey:
    """Return `key` with the signature of an older one under it."""
    return msgspec.structs.replace(key, vouch=by.sign(_VOUCH + key.x.encode()).hex())


def is_vouched_for(key: PublicKey, by: PublicKey) -> bool:
    """Tell whether the holder of `by` has signed `key`."""
    try:
        known = Ed25519PublicKey.from_public_bytes(bytes.fromhex(by.x))
        known.verify(bytes.fromhex(key.vouch), _VOUCH + key.x.encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def sign(claims: StartClaims, private: Ed25519PrivateKey) -> str:
    """Return the JWT of `claims`."""
    return jwt.encode(
        msgspec.to_builtins(claims), private, algorithm=ALGORITHM, headers={"kid": public_key(private).kid}
    )


def verify(token: str, keys: Mapping[str, PublicKey], *, audience: str, now: float) -> StartClaims:
    """Return the claims of `token` if one of `keys` (by kid) signed it for `audience` and `now` is in its time.

    RefusedError: COMMAND_BAD_SIGNATURE (size, form, key, signature, audience), COMMAND_STALE (time; the skew
    of COMMAND_MAX_SKEW_S counts both ways).
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise _bad(f"the signature has {len(token)} bytes; {MAX_TOKEN_BYTES} are allowed")
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        known = keys.get(kid) if isinstance(kid, str) else None
        if known is None:
            raise _bad(f"signed with the unknown key {str(kid)[:40]!r}; pinned: {', '.join(keys) or 'none'}")
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(known.x))
        payload = jwt.decode(
            token,
            public,
            algorithms=[ALGORITHM],
            audience=audience,
            # times are ours to judge: `now` is a value here, and the skew is the protocol's
            options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["aud", "jti"]},
        )
        claims = msgspec.convert(payload, StartClaims)
    except (jwt.PyJWTError, ValueError, msgspec.ValidationError, RecursionError) as error:
        raise _bad(str(error)) from None
    check_times(claims.iat, claims.exp, now=now)
    return claims


def check_times(issued: float, expires: float, *, now: float) -> None:
    """Raise RefusedError(COMMAND_STALE) unless issued-skew <= now <= min(expires, issued+skew)."""
    skew = now - issued
    # said positively: a comparison with NaN is false, whichever it is
    if not (abs(skew) <= COMMAND_MAX_SKEW_S and now <= expires + COMMAND_MAX_SKEW_S < math.inf):
        raise RefusedError(
            Code.COMMAND_STALE,
            f"The start command is {skew:+.0f} s from this endpoint's clock; "
            f"{COMMAND_MAX_SKEW_S} s are allowed. (issued {issued:.0f}, endpoint {now:.0f})",
        )


def _bad(why: str) -> RefusedError:
    return RefusedError(
        Code.COMMAND_BAD_SIGNATURE,
        "The endpoint did not accept the relay's signature.",
        admin_text=f"Start command refused: {why}.",
    )
