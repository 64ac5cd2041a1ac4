"""OAuth 2 grants: tokens per resource server, codes with PKCE, refresh (protocol: authentication)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec
from sqlalchemy import Connection

from mep.relay.auth.bearer import AUTH_SERVER, COMPUTE_SCOPE, COMPUTE_SERVER, Authenticator
from mep.relay.auth.keys import Keys
from mep.relay.auth.local import new_secret
from mep.relay.store import Store, accounts
from mep.relay.store.accounts import Grant, Identity, hash_secret

ACCESS_S: Final = 48 * 3600.0
REFRESH_S: Final = 180 * 86_400.0
CODE_S: Final = 600.0
_MOST_SCOPES = 20
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}={0,2}")  # RFC 7636; some clients pad it


class OAuthError(Exception):
    """What OAuth clients are told: an `error` from the standard's list, and a text."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


class AuthorizeRequest(msgspec.Struct, frozen=True):
    """What a client asks the authorize page for, kept with the code."""

    client_id: str
    redirect_uri: str
    scope: str
    state: str = ""
    code_challenge: str = ""
    code_challenge_method: str = ""
    access_type: str = ""

    def check(self) -> None:
        """Only pages of ours and programs on the user's own machine get a code."""
        if not self.client_id or not self.scope.split():
            raise OAuthError("invalid_request", "client_id and scope are needed.")
        if self.code_challenge_method not in ("S256", ""):
            raise OAuthError("invalid_request", "code_challenge_method must be S256.")
        if not _CHALLENGE.fullmatch(self.code_challenge):
            raise OAuthError("invalid_request", "code_challenge (PKCE) is needed.")
        scheme, host, _ = _address(self.redirect_uri)
        if not self.shows_code and (scheme not in ("http", "https") or host not in _HERE):
            raise OAuthError("invalid_request", "redirect_uri must be /v2/web/auth-code here, or on localhost.")

    @property
    def shows_code(self) -> bool:
        """The code is shown, and typed back by the user."""
        return _address(self.redirect_uri)[2] == "/v2/web/auth-code"


def _address(url: str) -> tuple[str, str | None, str]:
    """Return scheme, host and path of a URL; nothing of one that is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.path
    except ValueError:
        return "", None, ""


class Grants:
    """Issues and exchanges tokens."""

    def __init__(self, store: Store, authenticator: Authenticator, keys: Keys) -> None:
        self._store, self._authenticator, self._keys = store, authenticator, keys

    async def exchange(
        self, form: Mapping[str, str], basic: Identity | None, *, basic_given: bool, issuer: str
    ) -> dict[str, Any]:
        """Return the answer of the token endpoint."""
        if basic_given and basic is None:
            raise OAuthError("invalid_client", "Client id and secret do not belong together.", 401)
        if basic is None and form.get("client_secret"):
            basic = await self._authenticator.client_by_secret(form.get("client_id", ""), form["client_secret"])
            if basic is None:
                raise OAuthError("invalid_client", "Client id and secret do not belong together.", 401)
        kind = form.get("grant_type", "")
        if kind == "client_credentials":
            if basic is None:
                raise OAuthError("invalid_client", "This grant needs a client id and secret (HTTP Basic).", 401)
            return await self._issue(basic, form.get("scope") or COMPUTE_SCOPE, basic.id, refresh=False)
        if kind == "refresh_token":
            return await self._refresh(form, basic)
        if kind == "authorization_code":
            return await self._code(form, issuer)
        raise OAuthError("unsupported_grant_type", f"grant_type {kind[:40]!r} is not supported.")

    async def make_code(self, identity: Identity, request: AuthorizeRequest) -> str:
        """Return a code that can be exchanged once, within ten minutes."""
        code = new_secret()
        detail = msgspec.json.encode(request).decode()
        await self._store.write(
            lambda c: accounts.add_token(
                c,
                code,
                identity_id=identity.id,
                kind="code",
                scope=request.scope,
                lifetime_s=CODE_S,
                client_id=request.client_id,
                detail=detail,
            )
        )
        return code

    async def revoke(self, token: str) -> None:
        """Forget a token of any kind."""
        token_hash = hash_secret(token)
        await self._store.write(lambda c: accounts.drop_token(c, token_hash))
        self._authenticator.forget(token_hash)

    async def introspect(self, token: str) -> Grant | None:
        """Return what a token gives if it is in force."""
        grant = await self._store.read(lambda c: accounts.find_grant(c, hash_secret(token)))
        if grant is None or grant.kind == "code" or grant.expires < time.time() or grant.identity.disabled:
            return None
        return grant

    # ---- inside ----

    async def _refresh(self, form: Mapping[str, str], basic: Identity | None) -> dict[str, Any]:
        grant = await self.introspect(form.get("refresh_token", ""))
        client_id = basic.id if basic is not None else form.get("client_id", "")
        if grant is None or grant.kind != "refresh" or grant.client_id != client_id:
            raise OAuthError(
                "invalid_grant", "The refresh token is not known, or not this client's. Log in again."
            )
        answer = await self._issue(grant.identity, grant.scope, client_id, refresh=False)
        return {**answer, "refresh_token": form["refresh_token"]}

    async def _code(self, form: Mapping[str, str], issuer: str) -> dict[str, Any]:
        code_hash = hash_secret(form.get("code", ""))
        grant = await self._store.read(lambda c: accounts.find_grant(c, code_hash))
        if grant is None or grant.kind != "code" or grant.expires < time.time() or grant.identity.disabled:
            raise OAuthError("invalid_grant", "The code is not known or has expired. Begin the login again.")
        asked = msgspec.json.decode(grant.detail, type=AuthorizeRequest)
        if asked.client_id != form.get("client_id") or asked.redirect_uri != form.get("redirect_uri"):
            raise OAuthError("invalid_grant", "The code was made for another client or redirect_uri.")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        verifier = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if not hmac.compare_digest(verifier, asked.code_challenge.rstrip("=")):
            raise OAuthError("invalid_grant", "code_verifier does not fit the code.")
        if not await self._store.write(lambda c: accounts.drop_token(c, code_hash)):
            raise OAuthError("invalid_grant", "The code was used already.")
        answer = await self._issue(
            grant.identity, grant.scope, asked.client_id, refresh=asked.access_type == "offline"
        )
        if "openid" in grant.scope.split():
            answer["id_token"] = self._id_token(grant.identity, asked.client_id, issuer)
        return answer

    async def _issue(self, identity: Identity, scope: str, client_id: str, *, refresh: bool) -> dict[str, Any]:
        """Return tokens, one per resource server whose scopes are asked for; the first is the answer itself."""
        by_server: dict[str, list[str]] = {}
        scopes = list(dict.fromkeys(scope.split()))
        if len(scopes) > _MOST_SCOPES or len(scope) > 8000:
            raise OAuthError("invalid_scope", "Too many scopes.")
        if not scopes:
            raise OAuthError("invalid_scope", "No scope is asked for.")
        for one in scopes:
            by_server.setdefault(_server_of(one), []).append(one)
        documents: list[dict[str, Any]] = []
        rows: list[tuple[str, str, str, float]] = []
        for server, some in by_server.items():
            access, joined = new_secret(), " ".join(some)
            rows.append((access, "access", joined, ACCESS_S))
            document: dict[str, Any] = {
                "access_token": access,
                "token_type": "Bearer",
                "expires_in": int(ACCESS_S),
                "resource_server": server,
                "scope": joined,
                "refresh_token": None,
            }
            if refresh:
                document["refresh_token"] = new_secret()
                rows.append((document["refresh_token"], "refresh", joined, REFRESH_S))
            documents.append(document)

        def job(connection: Connection) -> None:
            for text, kind, joined, lifetime_s in rows:
                accounts.add_token(
                    connection,
                    text,
                    identity_id=identity.id,
                    kind=kind,
                    scope=joined,
                    lifetime_s=lifetime_s,
                    client_id=client_id,
                )

        await self._store.write(job)
        return {**documents[0], "other_tokens": documents[1:]}

    def _id_token(self, identity: Identity, audience: str, issuer: str) -> str:
        now = int(time.time())
        claims = {
            "iss": issuer,
            "aud": audience,
            "sub": identity.id,
            "iat": now,
            "exp": now + int(ACCESS_S),
            "preferred_username": identity.username,
            "name": identity.name,
            "email": identity.email,
        }
        return jwt.encode(claims, self._keys.rsa, algorithm="RS256", headers={"kid": "id-token"})

    def jwks(self) -> dict[str, Any]:
        """Return the public key that verifies `id_token`s."""
        document = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._keys.rsa.public_key()))
        return {"keys": [{**document, "kid": "id-token", "use": "sig", "alg": "RS256"}]}


def _server_of(scope: str) -> str:
    """Return the resource server that a scope belongs to; clients file tokens by it."""
    if scope == COMPUTE_SCOPE:
        return COMPUTE_SERVER
    prefix = "https://auth.globus.org/scopes/"
    return scope.removeprefix(prefix).partition("/")[0] if scope.startswith(prefix) else AUTH_SERVER
