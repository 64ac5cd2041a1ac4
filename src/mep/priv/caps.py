"""Capabilities: giving them all up, and the kernel's own account of what a process may do."""

from __future__ import annotations

from dataclasses import dataclass

import pyprctl

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.priv import syscalls

_CAPABILITY_LINES = (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb")


def drop_bounding_set() -> None:
    """Empty the bounding set: no later exec can bring a capability back. Privilege: CAP_SETPCAP."""
    number = 0
    while syscalls.drop_bounding_capability(number):
        number += 1


def drop_all() -> None:
    """Empty the effective, permitted, inheritable and ambient sets. Privilege: none."""
    syscalls.clear_ambient_capabilities()
    pyprctl.CapState().set_current()


@dataclass(frozen=True)
class Credentials:
    """What /proc/self/status says. Ids in the kernel's order: real, effective, saved, filesystem."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: frozenset[int]
    capabilities: int  # all sets or-ed, the bounding set apart
    bounding: int
    no_new_privs: bool


def read_credentials() -> Credentials:
    """Return the kernel's account of this process; HostError(PRIVILEGE_NOT_DROPPED) if there is none.

    Privilege: none.
    """
    try:
        with open("/proc/self/status", "rb", 0) as status:
            fields = dict(line.split(b":", 1) for line in status.read().splitlines())
        return Credentials(
            uids=tuple(map(int, fields[b"Uid"].split())),
            gids=tuple(map(int, fields[b"Gid"].split())),
            groups=frozenset(map(int, fields[b"Groups"].split())),
            capabilities=_union(fields),
            bounding=int(fields[b"CapBnd"], 16),
            no_new_privs=fields[b"NoNewPrivs"].strip() == b"1",
        )
    except (OSError, KeyError, ValueError) as error:
        raise HostError(
            Code.PRIVILEGE_NOT_DROPPED,
            "The endpoint could not prove that it runs as you.",
            admin_text=f"/proc/self/status does not say who this process is ({error!r}); is /proc mounted?",
        ) from None


def _union(fields: dict[bytes, bytes]) -> int:
    union = 0
    for name in _CAPABILITY_LINES:
        union |= int(fields[name], 16)
    return union
