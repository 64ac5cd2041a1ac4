"""Which relay, and as whom: arguments, then the environment, then what `mep login` stored."""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from typing import Final
from urllib.parse import urlsplit

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.secrets import Secret
from mep.sdk.http import Authorizer, RelayHttp, not_understood
from mep.sdk.login_file import Login, read_login

#: The scope that stock services want in a token; ours accepts it.
COMPUTE_SCOPE: Final = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
RESOURCE_SERVER: Final = "funcx_service"

_ENVIRONMENTS: Final = {
    "local": "http://localhost:5000",
    "production": "https://compute.api.globus.org",
    "preview": "https://compute.api.preview.globus.org",
}
_EXPIRY_MARGIN_S: Final = 60.0


class TokenAuthorizer:
    """A bearer token that somebody else made; it cannot be renewed here."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def get_authorization_header(self) -> str:
        return f"Bearer {self._token.reveal()}"

    def handle_missing_authorization(self) -> bool:
        return False


class LoginAuthorizer:
    """The stored login's token. Once it is refused the file is read again: there may be a newer one by now."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def get_authorization_header(self) -> str:
        return f"Bearer {self._login.token.reveal()}"

    def handle_missing_authorization(self) -> bool:
        newer = read_login()
        if newer is None or newer.relay != self._login.relay or newer.token == self._login.token:
            return False
        self._login = newer
        return True


class ClientCredentialsAuthorizer:
    """A client id and secret, exchanged for tokens as needed; a token is kept until it expires or is refused."""

    def __init__(self, client_id: str, client_secret: Secret, auth_url: str) -> None:
        self._client_id, self._client_secret = client_id, client_secret
        self._http = RelayHttp(auth_url, None)
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._until = 0.0  # monotonic seconds

    def get_authorization_header(self) -> str:
        with self._lock:
            if self._token is None or time.monotonic() > self._until:
                self._fetch()
            assert self._token is not None
            return f"Bearer {self._token.reveal()}"

    def handle_missing_authorization(self) -> bool:
        with self._lock:
            self._token = None
        return True

    def _fetch(self) -> None:
        pair = f"{self._client_id}:{self._client_secret.reveal()}".encode()
        answer = self._http.request_object(
            "POST",
            "/v2/oauth2/token",
            form={"grant_type": "client_credentials", "scope": COMPUTE_SCOPE},
            headers={"Authorization": f"Basic {base64.b64encode(pair).decode()}"},
        )
        try:
            tokens = [answer, *(answer.get("other_tokens") or [])]
            chosen = next((t for t in tokens if t.get("resource_server") == RESOURCE_SERVER), answer)
            lifetime_s = float(chosen.get("expires_in") or 3600)
            token = Secret(str(chosen["access_token"]))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise not_understood("the request for a token", "it holds none") from None
        self._token = token
        self._until = time.monotonic() + max(lifetime_s - _EXPIRY_MARGIN_S, 0.0)


def find_relay(
    relay_url: str | None = None, *, environment: str | None = None, local_compute_services: bool = False
) -> str:
    """Return the relay's URL: argument, MEP_RELAY_URL, the stored login; InputError(NOT_LOGGED_IN) if none."""
    if environment is not None and environment not in _ENVIRONMENTS:
        known = ", ".join(_ENVIRONMENTS)
        raise InputError(Code.USAGE, f"environment is {environment!r}; known are {known}.", step="")
    if local_compute_services:
        environment = "local"
    url = relay_url or _ENVIRONMENTS.get(environment or "") or os.environ.get("MEP_RELAY_URL", "")
    if not url:
        login = read_login()
        url = login.relay if login is not None else ""
    if not url:
        raise InputError(Code.NOT_LOGGED_IN, "It is not known which relay to talk to.")
    return checked_url(url)


def checked_url(url: str) -> str:
    """Return `url` without a trailing slash; InputError(USAGE) if it is no http or https address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(Code.USAGE, f"{url!r} is no address of a relay; wanted https://HOST[:PORT].", step="")
    return url.rstrip("/")


def find_authorizer(relay: str) -> Authorizer:
    """Return the credentials for `relay`: MEP_TOKEN, a client id and secret, the stored login.

    A stored token is only used for the relay that it is for. InputError(NOT_LOGGED_IN) if there is nothing.
    """
    if token := os.environ.get("MEP_TOKEN"):
        return TokenAuthorizer(Secret(token))
    for prefix in ("MEP", "GLOBUS_COMPUTE"):
        client_id = os.environ.get(f"{prefix}_CLIENT_ID", "")
        secret = os.environ.get(f"{prefix}_CLIENT_SECRET", "")
        if secret and not client_id:
            raise InputError(
                Code.NOT_LOGGED_IN, f"{prefix}_CLIENT_SECRET is set, {prefix}_CLIENT_ID is not.", step="Set both."
            )
        if _is_hosted(relay) and client_id:
            return _globus_authorizer(client_id, Secret(secret))
        if secret:
            return ClientCredentialsAuthorizer(client_id, Secret(secret), _auth_url(relay))
    login = read_login()
    if login is not None and login.relay.rstrip("/") == relay:
        return LoginAuthorizer(login)
    where = f" You are logged in to {login.relay}." if login is not None else ""
    raise InputError(Code.NOT_LOGGED_IN, f"There are no credentials for {relay}.{where}")


def _auth_url(relay: str) -> str:
    """Our relay issues tokens itself, unless the environment names another place, as stock tools want it."""
    return os.environ.get("GLOBUS_SDK_SERVICE_URL_AUTH") or relay


def _is_hosted(relay: str) -> bool:
    return (urlsplit(relay).hostname or "").endswith(".globus.org")


def somebody_there() -> bool:
    """Tell whether a person can be asked: standard input may be closed, or no terminal."""
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:
        return False


def _globus_authorizer(client_id: str, secret: Secret) -> Authorizer:
    """Globus Auth's own ways: a confidential client, or (no secret) a person who is sent to a browser once."""
    import globus_sdk  # here: only users of the hosted service pay for it

    scopes = {RESOURCE_SERVER: [COMPUTE_SCOPE]}
    app: globus_sdk.GlobusApp
    if secret:
        app = globus_sdk.ClientApp(
            "mep", client_id=client_id, client_secret=secret.reveal(), scope_requirements=scopes
        )
    else:
        app = globus_sdk.UserApp("mep", client_id=client_id, scope_requirements=scopes)
        if not somebody_there() and app.login_required():
            raise InputError(
                Code.NOT_LOGGED_IN,
                "Globus Auth wants to know who you are, and standard input is no terminal.",
                step="Run this once in a terminal; or set MEP_CLIENT_ID and MEP_CLIENT_SECRET.",
            )
    found: Authorizer = app.get_authorizer(RESOURCE_SERVER)
    return found
