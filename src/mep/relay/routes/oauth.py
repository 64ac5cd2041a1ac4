"""The identity service that stock tools call: tokens, login page, userinfo, identities."""

from __future__ import annotations

import html
from urllib.parse import parse_qsl, urlencode

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from mep.relay.auth.grants import AuthorizeRequest, Grants, OAuthError
from mep.relay.commands import identity_document
from mep.relay.errors import HttpError
from mep.relay.routes import answers
from mep.relay.routes.common import answer, relay_of
from mep.relay.routes.documented import form, says
from mep.relay.store import accounts
from mep.relay.store.accounts import Identity
from mep.wire.rest import ErrorBody

router = APIRouter(tags=["login"])

_MAX_FORM_BYTES = 64 * 1024
_TOKEN = form(
    "grant_type",
    "client_id",
    "client_secret",
    "scope",
    "refresh_token",
    "code",
    "code_verifier",
    "redirect_uri",
)
_ONE_TOKEN = form("token")
_AUTHORIZE = form("token", *AuthorizeRequest.__struct_fields__)
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@router.post("/v2/oauth2/token", **says(answers.Tokens, 400, 401, 413, takes=_TOKEN, login=""))
async def token(request: Request) -> Response:
    """client_credentials, authorization_code, refresh_token."""
    relay = relay_of(request)
    header = request.headers.get("authorization", "")
    try:
        told = await _grants(request).exchange(
            await _form(request),
            await relay.authenticator.client(header),
            basic_given=header.lower().startswith("basic "),
            issuer=_base(request),
        )
    except OAuthError as error:
        return _refusal(error)
    return Response(
        msgspec.json.encode(told), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


@router.post("/v2/oauth2/token/revoke", **says(answers.Introspection, 413, takes=_ONE_TOKEN, login=""))
async def revoke(request: Request) -> Response:
    """Whoever has a token may end it."""
    form = await _form(request)
    await _grants(request).revoke(form.get("token", ""))
    return answer({"active": False})


@router.post(
    "/v2/oauth2/token/introspect", **says(answers.Introspection, 401, 413, takes=_ONE_TOKEN, login="client")
)
async def introspect(request: Request) -> Response:
    """What a token gives; for clients (HTTP Basic)."""
    relay = relay_of(request)
    if await relay.authenticator.client(request.headers.get("authorization")) is None:
        return _refusal(OAuthError("invalid_client", "This route needs a client id and secret (HTTP Basic).", 401))
    grant = await _grants(request).introspect((await _form(request)).get("token", ""))
    if grant is None:
        return answer({"active": False})
    return answer(
        {
            "active": True,
            "sub": grant.identity.id,
            "username": grant.identity.username,
            "name": grant.identity.name,
            "email": grant.identity.email,
            "scope": grant.scope,
            "client_id": grant.client_id,
            "exp": int(grant.expires),
            "token_type": "Bearer",
            "identity_set": [grant.identity.id],
        }
    )


@router.get("/v2/oauth2/userinfo", **says(answers.UserInfo))
async def userinfo(request: Request) -> Response:
    """Who the token's owner is."""
    grant = await relay_of(request).authenticator.grant(request.headers.get("authorization"))
    who = grant.identity
    return answer(
        {
            "sub": who.id,
            "preferred_username": who.username,
            "name": who.name,
            "email": who.email,
            "identity_set": [identity_document(who)],
        }
    )


@router.get("/v2/api/identities", **says(answers.Identities))
async def identities(request: Request, ids: str = "", usernames: str = "") -> Response:
    """Look accounts up by id or name; unknown ones are left out."""
    relay = relay_of(request)
    await relay.authenticator.grant(request.headers.get("authorization"))
    by_id, by_name = ([part for part in text.split(",") if part][:500] for text in (ids, usernames))
    found = await relay.store.read_much(lambda c: accounts.find_identities(c, ids=by_id, usernames=by_name))
    return answer({"identities": [identity_document(identity) for identity in found]})


@router.get("/.well-known/openid-configuration", **says(dict[str, str | list[str]], login=""))
async def openid_configuration(request: Request) -> Response:
    base = _base(request)
    return answer(
        {
            "issuer": base,
            "authorization_endpoint": f"{base}/v2/oauth2/authorize",
            "token_endpoint": f"{base}/v2/oauth2/token",
            "userinfo_endpoint": f"{base}/v2/oauth2/userinfo",
            "revocation_endpoint": f"{base}/v2/oauth2/token/revoke",
            "jwks_uri": f"{base}/jwk.json",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
            "subject_types_supported": ["public"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
        }
    )


@router.get("/jwk.json", **says(dict[str, list[dict[str, str | list[str]]]], login=""))
async def jwks(request: Request) -> Response:
    return answer(_grants(request).jwks())


# ---- the login page ----


@router.get(
    "/v2/oauth2/authorize", response_class=HTMLResponse, **says("text/html", login="", also={400: "text/html"})
)
async def authorize(request: Request) -> Response:
    """Ask for a token of the person's, which the administrator made with `mep relay token`."""
    try:
        asked = _asked(dict(request.query_params))
    except OAuthError as error:
        return _page("Login", f"<p>{html.escape(error.description)}</p>", 400)
    return _login_page(asked)


@router.post(
    "/v2/oauth2/authorize",
    response_class=HTMLResponse,
    **says("text/html", 413, takes=_AUTHORIZE, login="", also={303: "", 400: "text/html"}),
)
async def authorized(request: Request) -> Response:
    """Show (or send to the program that waits on this machine) a code, for a token."""
    form = await _form(request)
    try:
        asked = _asked(form)
    except OAuthError as error:
        return _page("Login", f"<p>{html.escape(error.description)}</p>", 400)
    try:
        who: Identity = await relay_of(request).authenticator.user(f"Bearer {form.get('token', '').strip()}")
    except HttpError:
        return _login_page(asked, "This token is not known here, or has expired.")
    code = await _grants(request).make_code(who, asked)
    if not asked.shows_code:
        joined = "&" if "?" in asked.redirect_uri else "?"
        query = urlencode({"code": code, "state": asked.state})
        return RedirectResponse(f"{asked.redirect_uri}{joined}{query}", 303, headers=_PAGE_HEADERS)
    text = f"<p>Logged in as <b>{html.escape(who.username)}</b>. Copy this code to where you began:</p>"
    return _page("Login", f'{text}<p><code id="auth-code">{html.escape(code)}</code></p>')


def _login_page(asked: AuthorizeRequest, fault: str = "") -> Response:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(getattr(asked, name))}">'
        for name in asked.__struct_fields__
    )
    body = f"""<p>{html.escape(fault)}</p><p>A program asks to act as you. If you began this, paste your token:</p>
<form method="post" action="/v2/oauth2/authorize">{hidden}
<p><input type="password" name="token" size="50" autofocus autocomplete="off"></p>
<p><button type="submit">Allow</button></p></form>
<p>No token? Ask the administrator of this relay for one (<code>mep relay token</code>).</p>"""
    return _page("Login", body, 400 if fault else 200)


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    text = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mep relay: {title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 16px sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}</style></head>
<body><h1>{title}</h1>{body}</body></html>"""
    return HTMLResponse(text, status, headers=_PAGE_HEADERS)


def _asked(given: dict[str, str]) -> AuthorizeRequest:
    asked = AuthorizeRequest(**{name: given.get(name, "") for name in AuthorizeRequest.__struct_fields__})
    asked.check()
    return asked


def _grants(request: Request) -> Grants:
    relay = relay_of(request)
    return Grants(relay.store, relay.authenticator, relay.keys)


async def _form(request: Request) -> dict[str, str]:
    body = await request.body()
    if len(body) > _MAX_FORM_BYTES:
        raise HttpError(413, "REQUEST_MALFORMED", "The form is too large.")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _base(request: Request) -> str:
    """Return this relay's URL as the caller knows it."""
    return relay_of(request).settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def _refusal(error: OAuthError) -> Response:
    """Both shapes: what OAuth clients read, and the body of every other error here."""
    body = ErrorBody(
        code=error.error, detail=error.description, reason=error.description, http_status_code=error.status
    )
    document = {**msgspec.to_builtins(body), "error": error.error, "error_description": error.description}
    headers = {"WWW-Authenticate": "Basic"} if error.status == 401 else {}
    return Response(msgspec.json.encode(document), error.status, headers, "application/json")
