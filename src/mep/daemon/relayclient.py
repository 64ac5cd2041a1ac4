"""The gate's HTTP half: a token, the registration, the owner's identities. Blocking: run it in a thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Struct

import mep
from mep.base.codes import Code
from mep.base.errors import MepError, RefusedError, ServiceError
from mep.base.exits import Exit
from mep.base.secrets import Secret
from mep.wire.command import decode_secret
from mep.wire.decoding import INVALID
from mep.wire.rest import HEADER_SEALS, RegistrationAnswer, RegistrationRequest

log = logging.getLogger(__name__)

COMPUTE_SCOPE: Final = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
_AUTH_SERVER: Final = "auth.globus.org"
_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_MOST_ANSWER_BYTES: Final = 4 * 1024 * 1024

#: What a refusal means and how `mep start` ends because of it; other statuses are tried again.
_REFUSALS: Final[dict[int, tuple[Code, Exit]]] = {
    400: (Code.INVALID_REQUEST, Exit.DATA),
    401: (Code.AUTH_REQUIRED, Exit.FAILED),
    403: (Code.FORBIDDEN, Exit.FAILED),
    404: (Code.NOT_FOUND, Exit.UNAVAILABLE),
    409: (Code.RELAY_REFUSED, Exit.UNAVAILABLE),
    422: (Code.INVALID_REQUEST, Exit.DATA),
    423: (Code.LOCKED, Exit.UNAVAILABLE),
}

_answer_of = msgspec.json.Decoder(RegistrationAnswer, dec_hook=decode_secret).decode


class _Token(Struct):
    access_token: str
    resource_server: str = ""


class _Tokens(_Token):
    other_tokens: list[_Token] | None = None


class _Identity(Struct):
    sub: str = ""


class _Owner(Struct):
    identity_set: list[_Identity] = []


_tokens_of = msgspec.json.Decoder(_Tokens).decode
_owner_of = msgspec.json.Decoder(_Owner).decode


class RelayRefusal(RefusedError):
    """The relay will not have us; trying again does not help. `exit_code` is that of `mep start`."""

    def __init__(self, code: Code, text: str, exit_code: int) -> None:
        super().__init__(code, text, step="")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Credentials:
    """What the endpoint proves itself with: a client's id and secret, or a bearer token."""

    client_id: str = ""
    client_secret: Secret | None = None
    token: Secret | None = None


def read_credentials(fd: int) -> Credentials:
    """Return what the fd holds, JSON; RelayRefusal(NOT_LOGGED_IN) if it holds none. Closes the fd."""
    try:
        document = msgspec.json.decode(os.pread(fd, 65536, 0)) if fd >= 0 else {}
    except INVALID:
        document = {}
    finally:
        if fd >= 0:
            os.close(fd)
    if isinstance(document, dict) and document.get("client_id") and document.get("client_secret"):
        return Credentials(str(document["client_id"]), Secret(str(document["client_secret"])))
    if isinstance(document, dict) and document.get("token"):
        return Credentials(token=Secret(str(document["token"])))
    raise RelayRefusal(
        Code.NOT_LOGGED_IN,
        "The endpoint has no credentials: set MEP_CLIENT_ID and MEP_CLIENT_SECRET, or MEP_TOKEN.",
        Exit.NO_PERMISSION,
    )


class RelayClient:
    """One endpoint's conversation with its relay. Every call may block for a minute."""

    def __init__(self, relay_url: str, auth_url: str, credentials: Credentials) -> None:
        self._relay_url, self._auth_url = relay_url.rstrip("/"), auth_url.rstrip("/")
        self._credentials = credentials
        self._tokens: dict[str, Secret] = {}  # by resource server; "" is the relay's
        self._pool = _pool(self._relay_url)

    def register(self, request: RegistrationRequest, endpoint_id: str) -> RegistrationAnswer:
        """POST, or PUT where the id is known. RelayRefusal, or ServiceError(RELAY_UNREACHABLE) worth a retry."""
        method, path = ("PUT", f"/v3/endpoints/{endpoint_id}") if endpoint_id else ("POST", "/v3/endpoints")
        body = self._call(method, self._relay_url + path, msgspec.json.encode(request), more={HEADER_SEALS: "1"})
        try:
            return _answer_of(body)
        except INVALID as error:
            raise _no_answer("registration", error) from None

    def owner_identities(self) -> list[str]:
        """Return the ids of the identities that the credentials' owner has."""
        body = self._call("GET", self._auth_url + "/v2/oauth2/userinfo", None, server=_AUTH_SERVER)
        try:
            found = [identity.sub for identity in _owner_of(body).identity_set if identity.sub]
        except INVALID as error:
            raise _no_answer("question whose endpoint this is", error) from None
        if not found:
            raise RelayRefusal(
                Code.RELAY_REFUSED, "The identity service names no identity of this owner.", Exit.NO_PERMISSION
            )
        return found

    # ---- inside ----

    def _call(
        self, method: str, url: str, body: bytes | None, *, server: str = "", more: Mapping[str, str] | None = None
    ) -> bytes:
        """One authorised call, with one fresh token after a 401."""
        for attempt in (1, 2):
            headers = {"Authorization": f"Bearer {self._token(server).reveal()}", **(more or {})}
            if body is not None:
                headers["Content-Type"] = "application/json"
            status, answer = self._send(method, url, body, headers)
            if status == 401 and attempt == 1 and self._credentials.token is None:
                self._tokens.clear()
                continue
            break
        if status >= 400:
            raise _refusal(status, answer, method, url)
        return answer

    def _token(self, server: str) -> Secret:
        if self._credentials.token is not None:
            return self._credentials.token
        if not self._tokens:
            self._fetch_tokens()
        return self._tokens.get(server) or self._tokens[""]

    def _fetch_tokens(self) -> None:
        """Ask for a token by the client's credentials."""
        given = self._credentials
        assert given.client_secret is not None
        scope = os.environ.get("GLOBUS_COMPUTE_SCOPE", COMPUTE_SCOPE)
        form = {"grant_type": "client_credentials", "scope": f"{scope} openid"}
        basic = urllib3.make_headers(basic_auth=f"{given.client_id}:{given.client_secret.reveal()}")
        headers = {**basic, "Content-Type": "application/x-www-form-urlencoded"}
        url = self._auth_url + "/v2/oauth2/token"
        status, answer = self._send("POST", url, urlencode(form).encode(), headers)
        if status in (400, 401, 403):
            raise RelayRefusal(
                Code.AUTH_REQUIRED,
                f"The relay does not accept the endpoint's credentials (client {given.client_id}): "
                f"{_detail(answer)}",
                Exit.NO_PERMISSION,
            )
        if status >= 400:
            raise _refusal(status, answer, "POST", url)
        try:
            first = _tokens_of(answer)
        except INVALID as error:
            raise _no_answer("request for a token", error) from None
        self._tokens = {"": Secret(first.access_token)}
        for one in (first, *(first.other_tokens or ())):
            self._tokens[one.resource_server] = Secret(one.access_token)

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers={"Accept": "application/json", "User-Agent": f"mep/{mep.__version__}", **headers},
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=_ANSWER_S),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            data = response.read(_MOST_ANSWER_BYTES)
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ServiceError(
                Code.RELAY_UNREACHABLE, f"The relay at {url} does not answer: {_cause(error)}.", step=""
            ) from None
        return response.status, data


def _no_answer(question: str, error: Exception) -> RelayRefusal:
    return RelayRefusal(
        Code.RELAY_REFUSED, f"The relay's answer to the {question} is invalid: {error}.", Exit.SOFTWARE
    )


def _pool(url: str) -> urllib3.PoolManager:
    """Through the site's proxy where the environment names one; certificates are always verified."""
    scheme = url.partition(":")[0]
    proxy = os.environ.get(f"{scheme.upper()}_PROXY") or os.environ.get(f"{scheme}_proxy")
    exempt = (os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "").split(",")
    host = url.partition("://")[2].partition("/")[0].partition(":")[0]
    authority = os.environ.get("GLOBUS_SDK_VERIFY_SSL", "")
    extra: dict[str, Any] = {"ca_certs": authority} if os.path.isfile(authority) else {}
    if proxy and not any(host == e.strip() or host.endswith(f".{e.strip().lstrip('.')}") for e in exempt if e):
        return urllib3.ProxyManager(proxy, **extra)
    return urllib3.PoolManager(**extra)


def _refusal(status: int, answer: bytes, method: str, url: str) -> MepError:
    if status in _REFUSALS:
        code, exit_code = _REFUSALS[status]
        return RelayRefusal(code, f"The relay refuses ({status}): {_detail(answer)}", exit_code)
    return ServiceError(
        Code.RELAY_UNREACHABLE, f"{method} {url} was answered {status}: {_detail(answer)}", step=""
    )


def _detail(answer: bytes) -> str:
    """Return the reason in an error's body, whoever wrote it."""
    try:
        document = msgspec.json.decode(answer)
    except INVALID:
        document = None
    if isinstance(document, dict):
        for key in ("detail", "reason", "error_description", "error"):
            if isinstance(document.get(key), str) and document[key]:
                return str(document[key])[:1000]
    return answer[:200].decode(errors="replace") or "no reason given"


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if isinstance(reason, BaseException) else error)[:300]
