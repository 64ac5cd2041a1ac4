"""From the Authorization header to a person."""

from __future__ import annotations

import base64
import hmac
import time
from typing import Final

from mep.relay.errors import HttpError, unauthenticated
from mep.relay.store import Store, accounts
from mep.relay.store.accounts import Grant, Identity, hash_secret

COMPUTE_SCOPE: Final = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
COMPUTE_SERVER: Final = "funcx_service"
AUTH_SERVER: Final = "auth.globus.org"
ALL_SCOPES: Final = "*"  # a token from `mep relay token`

_CACHE_S = 2.0  # a token revoked by another process (`mep relay user`) stops working within this time
_CACHE_MOST = 10_000


class Authenticator:
    """Looks tokens up by their hash, with a short memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache: dict[str, tuple[float, Grant]] = {}

    async def grant(self, header: str | None) -> Grant:
        """Return what the bearer token in `header` gives; HttpError 401 says what is wrong and what to do."""
        scheme, _, token = (header or "").partition(" ")
        if not token or scheme.lower() != "bearer":
            raise unauthenticated("This request carries no bearer token.")
        token_hash = hash_secret(token.strip())
        cached = self._cache.get(token_hash)
        if cached is not None and cached[0] > time.monotonic():
            grant: Grant | None = cached[1]
        else:
            grant = await self._store.read(lambda c: accounts.find_grant(c, token_hash))
        if grant is None or grant.kind != "access":
            raise unauthenticated("The token is not known here.", "INVALID_AUTH_TOKEN")
        if grant.expires < time.time():
            raise unauthenticated("The token has expired.", "INVALID_AUTH_TOKEN")
        if grant.identity.disabled:
            raise unauthenticated("This account is disabled.", "INVALID_AUTH_TOKEN")
        if cached is None or cached[1] is not grant:
            self._remember(token_hash, grant)
        return grant

    async def user(self, header: str | None) -> Identity:
        """Return who calls a compute route; HttpError 403 for a token that was made for something else."""
        grant = await self.grant(header)
        if grant.scope != ALL_SCOPES and COMPUTE_SCOPE not in grant.scope.split():
            raise HttpError(403, "INSUFFICIENT_AUTH_SCOPE", f"The token lacks the scope {COMPUTE_SCOPE}.")
        return grant.identity

    def forget(self, token_hash: str | None = None) -> None:
        """Look this token (or all) up again at its next use."""
        if token_hash is None:
            self._cache.clear()
        else:
            self._cache.pop(token_hash, None)

    async def client(self, header: str | None) -> Identity | None:
        """Return the client that proves itself by HTTP Basic, or None."""
        scheme, _, encoded = (header or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:  # no base64, or no text
            return None
        return await self.client_by_secret(client_id, secret)

    async def client_by_secret(self, client_id: str, secret: str) -> Identity | None:
        wanted = await self._store.read(lambda c: accounts.client_secret_hash(c, client_id))
        if not hmac.compare_digest(wanted or "", hash_secret(secret)):
            return None
        identity = await self._store.read(lambda c: accounts.find_identity(c, client_id))
        return None if identity is None or identity.disabled else identity

    def _remember(self, token_hash: str, grant: Grant) -> None:
        if len(self._cache) >= _CACHE_MOST:
            self._cache.clear()
        self._cache[token_hash] = (time.monotonic() + _CACHE_S, grant)
