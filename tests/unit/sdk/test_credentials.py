"""Which relay and which credentials are used, and what is said when there are none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError, InputError
from mep.base.secrets import Secret
from mep.sdk.credentials import ClientCredentialsAuthorizer, find_authorizer, find_relay
from mep.sdk.login_file import Login, login_path, read_login, remove_login, write_login

RELAY = "https://relay.example.org"


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("RELAY_URL", "TOKEN", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"MEP_{name}", raising=False)
        monkeypatch.delenv(f"GLOBUS_COMPUTE_{name}", raising=False)


def _header(relay: str = RELAY) -> str | None:
    return find_authorizer(relay).get_authorization_header()


def test_without_anything_one_is_told_how_to_log_in() -> None:
    with pytest.raises(InputError, match="mep login") as caught:
        find_relay()
    assert caught.value.code is Code.NOT_LOGGED_IN
    with pytest.raises(InputError, match=r"no credentials for https://relay\.example\.org"):
        find_authorizer(RELAY)


def test_the_relay_is_found_by_argument_then_environment_then_login(monkeypatch: pytest.MonkeyPatch) -> None:
    write_login(Login("https://stored", Secret("t")))
    assert find_relay() == "https://stored"
    monkeypatch.setenv("MEP_RELAY_URL", "https://environment/")
    assert find_relay() == "https://environment"
    assert find_relay("https://argument") == "https://argument"
    assert find_relay(local_compute_services=True) == "http://localhost:5000"


@pytest.mark.parametrize("wrong", ["relay.example.org", "ftp://x", "https://", "relay"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="wanted https://HOST"):
        find_relay(wrong)


def test_a_token_in_the_environment_counts_before_a_client_before_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_login(Login(RELAY, Secret("stored")))
    assert _header() == "Bearer stored"
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", "i")
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", "s")
    assert isinstance(find_authorizer(RELAY), ClientCredentialsAuthorizer)
    monkeypatch.setenv("MEP_TOKEN", "environment")
    assert _header() == "Bearer environment"


def test_a_stored_token_is_never_sent_to_another_relay() -> None:
    write_login(Login(RELAY, Secret("stored")))
    with pytest.raises(InputError, match=f"You are logged in to {RELAY}"):
        find_authorizer("https://other.example.org")


def test_a_secret_without_an_id_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEP_CLIENT_SECRET", "s")
    with pytest.raises(InputError, match="MEP_CLIENT_ID is not"):
        find_authorizer(RELAY)


def test_the_login_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = write_login(Login(RELAY, Secret("stored"), "alice"))
    assert path == login_path() == tmp_path / "mep" / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_login() == Login(RELAY, Secret("stored"), "alice")
    assert [p.name for p in path.parent.iterdir()] == ["credentials.json"]


def test_logging_out_removes_the_file() -> None:
    write_login(Login(RELAY, Secret("stored")))
    assert (remove_login(), remove_login(), read_login()) == (True, False, None)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"relay": 1', "\xff"])
def test_a_broken_login_file_is_named(text: str) -> None:
    login_path().parent.mkdir()
    login_path().write_text(text, encoding="latin-1")
    with pytest.raises(HostError, match=r"credentials.json is not what"):
        read_login()
