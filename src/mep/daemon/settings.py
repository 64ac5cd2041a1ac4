"""What a running endpoint is told at its start and never changes; what does change is in `files` and `state`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mep.config.endpoint import EndpointConfig
from mep.config.paths import EndpointPaths
from mep.daemon.gatesettings import RunGate
from mep.priv.become import User
from mep.wire.launch import Launch

GRACE_S = 10.0  # from "finish" to "be killed", at a stop


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One endpoint, ready to be run.

    `privileged`: the daemon is root and maps identities. `owner`: who runs it. `gate_user`: what the gate becomes,
    None without root. `credentials_fd`: -1, or a memfd with the endpoint's credentials.
    """

    name: str
    paths: EndpointPaths
    config: EndpointConfig
    config_text: str
    relay_url: str
    auth_url: str
    privileged: bool
    owner: User
    gate_user: User | None
    credentials_fd: int = -1
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    grace_s: float = GRACE_S


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The code that is handed to the daemon instead of being imported by it.

    `boot` is what a user process becomes; `preload` (template) imports what it needs, once, before the first fork.
    `check_template` (text, source, includes) and `check_schema` (schema, source) raise InputError for broken ones.
    """

    boot: Callable[[Launch], int]
    run_gate: RunGate
    preload: Callable[[str], None]
    check_template: Callable[[str, str, dict[str, str]], None]
    check_schema: Callable[[Any, str], None]
