"""From an endpoint's folder and the caller's environment to an `Endpoint` that can be run."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.paths import EndpointPaths
from mep.daemon.credentials import open_credentials
from mep.daemon.settings import Endpoint
from mep.daemon.state import clean_environment, make_private_directory
from mep.host.accounts import own_account
from mep.host.trusted import read_own, read_trusted
from mep.priv.become import User

#: What the gate becomes where nobody said, and the account that packages make does not exist.
_FALLBACK_GATE_USER: Final = "nobody"
_HOSTED: Final = "compute.api.globus.org"
_HOSTED_AUTH: Final = "https://auth.globus.org"


def prepare(
    paths: EndpointPaths,
    *,
    environment: Mapping[str, str],
    credentials_fd: int = -1,
    warn: list[str] | None = None,
) -> Endpoint:
    """Return the endpoint in `paths`; InputError and HostError say what is in the way.

    `credentials_fd`: the endpoint's credentials, if they came with the command; else the state folder's are used.
    Privilege: root for a multi-user endpoint, which is what root gets.
    """
    privileged = os.geteuid() == 0
    owner = _owner()
    text = read_trusted(paths.config) if privileged else read_own(paths.config)
    config = load_endpoint_config(text, source=str(paths.config))
    paths = paths.configured(config)
    make_private_directory(paths.state_dir, privileged=privileged)
    relay_url = config.relay_url(environment.get("MEP_RELAY_URL"))
    return Endpoint(
        name=paths.name,
        paths=paths,
        config=config,
        config_text=text,
        relay_url=relay_url,
        auth_url=_auth_url(relay_url, environment),
        privileged=privileged,
        owner=owner,
        gate_user=_gate_user(config, warn if warn is not None else []) if privileged else None,
        credentials_fd=credentials_fd if credentials_fd >= 0 else open_credentials(paths, owner.uid),
        environment=clean_environment(environment),
    )


def _owner() -> User:
    account = own_account()
    return User(account.name, account.uid, account.gid, account.gids, account.home)


def _auth_url(relay_url: str, environment: Mapping[str, str]) -> str:
    """Who gives tokens: the relay itself, unless the environment or the hosted service says otherwise."""
    named = environment.get("GLOBUS_SDK_SERVICE_URL_AUTH", "").rstrip("/")
    if named:
        return named
    return _HOSTED_AUTH if _HOSTED in relay_url else relay_url


def _gate_user(config: EndpointConfig, warn: list[str]) -> User:
    """Return what the gate becomes: never root, and nobody's group but its own."""
    name = config.gate_user
    chosen = "gate_user" in config.model_fields_set
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if chosen:
            raise InputError(
                Code.CONFIG_INVALID, f"gate_user: there is no account {name!r} on this host.", step=""
            ) from None
        warn.append(
            f"there is no account {name!r} for the endpoint's network process: {_FALLBACK_GATE_USER!r} is used. "
            f"Make one with `useradd --system --shell /usr/sbin/nologin {name}`."
        )
        entry = pwd.getpwnam(_FALLBACK_GATE_USER)
    if entry.pw_uid == 0:
        raise InputError(Code.CONFIG_INVALID, f"gate_user: {name!r} has uid 0.", step="")
    return replace(User(entry.pw_name, entry.pw_uid, entry.pw_gid, (entry.pw_gid,), "/"))
