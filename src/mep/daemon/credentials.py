"""Where the endpoint's own credentials are until the gate has them: behind an fd, not in the monitor's memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from typing import Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.paths import EndpointPaths
from mep.host.trusted import open_trusted

_CLIENTS: Final = (
    ("MEP_CLIENT_ID", "MEP_CLIENT_SECRET"),
    ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET"),
    ("FUNCX_SDK_CLIENT_ID", "FUNCX_SDK_CLIENT_SECRET"),
)
_TOKEN: Final = "MEP_TOKEN"  # noqa: S105 - the variable's name
FILE_NAME: Final = "credentials.json"


def take_from_environment(environment: MutableMapping[str, str]) -> int:
    """Move credentials out of `environment` into a memfd; return it, inheritable, or -1 if there are none.

    InputError(USAGE) for half a pair. The caller then executes itself anew: a process keeps the environment it was
    started with in its memory for ever, and hands it on to each fork.
    """
    found = _found(environment)
    for names in (*_CLIENTS, (_TOKEN,)):
        for name in names:
            environment.pop(name, None)
    return in_memory(found) if found else -1


def in_memory(credentials: Mapping[str, str]) -> int:
    """Return a memfd that holds them, as JSON."""
    fd = os.memfd_create("credentials", os.MFD_CLOEXEC)
    os.write(fd, json.dumps(credentials).encode())
    return fd


def _found(environment: Mapping[str, str]) -> dict[str, str]:
    for id_name, secret_name in _CLIENTS:
        client, secret = environment.get(id_name, ""), environment.get(secret_name, "")
        if client and secret:
            return {"client_id": client, "client_secret": secret}
        if client or secret:
            missing = secret_name if client else id_name
            raise InputError(Code.USAGE, f"{missing} is not set, but its counterpart is.", step="")
    token = environment.get(_TOKEN, "")
    return {"token": token} if token else {}


def open_credentials(paths: EndpointPaths, owner_uid: int) -> int:
    """Return an fd of the state folder's credentials.json, unread, or -1 if there is none.

    HostError(CONFIG_UNTRUSTED) if others could read or write it. Privilege: read access to it.
    """
    path = paths.state_dir / FILE_NAME
    if not path.exists():
        return -1
    with open_trusted(path, owner_uid=owner_uid, private=True) as fd:
        return os.dup(fd)
