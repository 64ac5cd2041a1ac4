"""Accounts, tokens and clients: made by hand, and by the OAuth calls of stock tools."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from support.fake_endpoint import Http
from support.program import clean_environment, mep, run
from support.relay import Relay
from support.wait import until

COMPUTE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
MANAGE = "urn:globus:auth:scope:auth.globus.org:manage_projects"
NATIVE_CLIENT = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"


def relay_command(*arguments: str | Path) -> str:
    return run(mep("relay", *arguments), env=clean_environment()).stdout


def grant(relay: Relay, *, status: int = 200, auth: Any = None, **form: Any) -> dict[str, Any]:
    answer = httpx.post(f"{relay.url}/v2/oauth2/token", data=form, auth=auth)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_tokens_and_clients_can_be_made_before_the_relay_ever_ran(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    lines = relay_command("token", "--data-dir", data_dir, "alice@example.org").splitlines()
    assert re.fullmatch(r"[\w-]{40,}", lines[-1])
    assert "client_secret" in relay_command("client", "--data-dir", data_dir, "site", "--json")
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    database = data_dir / "relay.db"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    stored = b"".join(path.read_bytes() for path in data_dir.iterdir())
    assert lines[-1].encode() not in stored, "a token is stored readable"


def test_a_token_made_while_the_relay_runs_works_at_once(relay: Relay) -> None:
    token = relay_command("token", "--data-dir", relay.data_dir, "late@example.org").split()[-1]
    told = httpx.get(f"{relay.url}/v2/authenticate", headers=bearer(token)).json()
    assert told["username"] == "late@example.org"


def test_a_revoked_token_stops_working(relay: Relay) -> None:
    token = relay_command("token", "--data-dir", relay.data_dir, "gone@example.org").split()[-1]
    carol = Http(relay.url, token)
    carol.ok("GET", "/v2/endpoints")
    assert "1 tokens revoked" in relay_command("user", "revoke", "--data-dir", relay.data_dir, "gone@example.org")
    until(lambda: carol.client.get("/v2/endpoints").status_code == 401, "the token is refused", timeout_s=4)
    carol.close()


def test_a_disabled_account_is_refused_until_it_is_enabled(relay: Relay) -> None:
    token = relay_command("token", "--data-dir", relay.data_dir, "dora@example.org").split()[-1]
    dora = Http(relay.url, token)
    relay_command("user", "disable", "--data-dir", relay.data_dir, "dora@example.org")
    until(lambda: dora.client.get("/v2/endpoints").status_code == 401, "the account is refused", timeout_s=4)
    relay_command("user", "enable", "--data-dir", relay.data_dir, "dora@example.org")
    until(lambda: dora.client.get("/v2/endpoints").status_code == 200, "the account is admitted", timeout_s=4)
    dora.close()


def test_client_credentials_give_a_token_for_each_resource_server(relay: Relay) -> None:
    client = relay.client("program")
    told = grant(
        relay,
        auth=(client.client_id, client.client_secret),
        grant_type="client_credentials",
        scope=f"{COMPUTE} {COMPUTE} openid {MANAGE}",
    )
    assert (told["resource_server"], told["scope"], told["refresh_token"]) == ("funcx_service", COMPUTE, None)
    (other,) = told["other_tokens"]
    assert (other["resource_server"], other["scope"]) == ("auth.globus.org", f"openid {MANAGE}")
    info = httpx.get(f"{relay.url}/v2/oauth2/userinfo", headers=bearer(other["access_token"])).json()
    assert info["preferred_username"] == client.username
    assert info["identity_set"][0]["sub"] == info["sub"] == client.client_id
    refused = httpx.get(f"{relay.url}/v2/endpoints", headers=bearer(other["access_token"]))
    assert refused.json()["code"] == "INSUFFICIENT_AUTH_SCOPE"
    assert httpx.get(f"{relay.url}/v2/endpoints", headers=bearer(told["access_token"])).status_code == 200


def test_a_wrong_secret_and_an_unknown_grant_are_refused(relay: Relay) -> None:
    client = relay.client("program")
    told = grant(relay, status=401, auth=(client.client_id, "wrong"), grant_type="client_credentials")
    assert told["error"] == told["code"] == "invalid_client"
    told = grant(relay, status=401, grant_type="client_credentials")
    assert told["error"] == "invalid_client"
    assert grant(relay, status=400, grant_type="password")["error"] == "unsupported_grant_type"


def login(relay: Relay, token: str, scope: str) -> tuple[str, str, dict[str, Any]]:
    """Go through the login page; return code, verifier and what was asked."""
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    asked = {
        "client_id": NATIVE_CLIENT,
        "redirect_uri": f"{relay.url}/v2/web/auth-code",
        "scope": scope,
        "state": "_default",
        "response_type": "code",
        "access_type": "offline",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    page = httpx.get(f"{relay.url}/v2/oauth2/authorize", params=asked)
    assert page.status_code == 200
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    shown = httpx.post(f"{relay.url}/v2/oauth2/authorize", data={**fields, "token": token})
    found = re.search(r'id="auth-code">([^<]+)<', shown.text)
    return (found[1] if found else ""), verifier, asked


def test_an_interactive_login_gives_tokens_that_can_be_refreshed_and_revoked(relay: Relay) -> None:
    code, verifier, asked = login(relay, relay.token("alice@example.org"), f"{COMPUTE} openid")
    form: dict[str, Any] = {"client_id": NATIVE_CLIENT, "redirect_uri": asked["redirect_uri"], "code": code}
    told = grant(relay, grant_type="authorization_code", code_verifier=verifier, **form)
    keys = httpx.get(httpx.get(f"{relay.url}/.well-known/openid-configuration").json()["jwks_uri"]).json()["keys"]
    claims = jwt.decode(
        told["id_token"], jwt.PyJWK(keys[0]).key, algorithms=["RS256"], audience=NATIVE_CLIENT, issuer=relay.url
    )
    assert claims["preferred_username"] == "alice@example.org"
    assert told["other_tokens"][0]["refresh_token"]

    again = grant(relay, status=400, grant_type="authorization_code", code_verifier=verifier, **form)
    assert again["error"] == "invalid_grant", "a code works once"

    fresh = grant(relay, grant_type="refresh_token", refresh_token=told["refresh_token"], client_id=NATIVE_CLIENT)
    assert fresh["access_token"] != told["access_token"]
    headers = bearer(fresh["access_token"])
    assert httpx.get(f"{relay.url}/v2/authenticate", headers=headers).json()["username"] == "alice@example.org"

    for token in (fresh["access_token"], told["refresh_token"]):
        answer = httpx.post(f"{relay.url}/v2/oauth2/token/revoke", data={"token": token})
        assert answer.json() == {"active": False}
    assert httpx.get(f"{relay.url}/v2/authenticate", headers=headers).status_code == 401
    told = grant(
        relay, status=400, grant_type="refresh_token", refresh_token=told["refresh_token"], client_id=NATIVE_CLIENT
    )
    assert told["error"] == "invalid_grant"


def test_a_code_is_worth_nothing_without_its_verifier(relay: Relay) -> None:
    code, _, asked = login(relay, relay.token("alice@example.org"), COMPUTE)
    form: dict[str, Any] = {"client_id": NATIVE_CLIENT, "redirect_uri": asked["redirect_uri"], "code": code}
    told = grant(relay, status=400, grant_type="authorization_code", code_verifier="w" * 50, **form)
    assert told["error"] == "invalid_grant"


def test_the_login_page_wants_a_good_token_and_a_safe_redirect(relay: Relay) -> None:
    code, _, asked = login(relay, "wrong", COMPUTE)
    assert code == ""
    away = {**asked, "redirect_uri": "https://evil.example/"}
    assert httpx.get(f"{relay.url}/v2/oauth2/authorize", params=away).status_code == 400
    script = {**asked, "state": '"><script>alert(1)</script>'}
    assert "<script>" not in httpx.get(f"{relay.url}/v2/oauth2/authorize", params=script).text


def test_identities_are_found_by_id_and_name(relay: Relay) -> None:
    headers = bearer(relay.token("alice@example.org"))
    url = f"{relay.url}/v2/api/identities"
    (found,) = httpx.get(url, params={"usernames": "alice@example.org"}, headers=headers).json()["identities"]
    assert found["status"] == "used"
    both = httpx.get(url, params={"ids": f"{found['id']},{'0' * 36}"}, headers=headers).json()["identities"]
    assert [i["username"] for i in both] == ["alice@example.org"]


def test_clients_can_introspect_tokens(relay: Relay) -> None:
    client, token = relay.client("service"), relay.token("alice@example.org")
    url = f"{relay.url}/v2/oauth2/token/introspect"
    told = httpx.post(url, data={"token": token}, auth=(client.client_id, client.client_secret)).json()
    assert (told["active"], told["username"]) == (True, "alice@example.org")
    told = httpx.post(url, data={"token": "x"}, auth=(client.client_id, client.client_secret)).json()
    assert told == {"active": False}
    assert httpx.post(url, data={"token": token}).status_code == 401


@pytest.mark.parametrize("name", ["", " x", "a\nb"])
def test_an_unusable_account_name_is_refused(tmp_path: Path, name: str) -> None:
    command = mep("relay", "token", "--data-dir", tmp_path / "d", name)
    done = run(command, env=clean_environment(), check=False)
    assert done.returncode == 2
    assert "no usable name" in done.stderr
