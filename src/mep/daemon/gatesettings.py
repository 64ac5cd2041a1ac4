"""What the gate is told, apart from the settings of the privileged half: the gate knows nothing of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mep.wire.rest import RegistrationRequest


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What the gate is told: nothing of it is secret, the credentials come through an fd."""

    name: str
    relay_url: str
    auth_url: str
    registration: RegistrationRequest
    endpoint_id: str
    heartbeat_period_s: float
    amqp_port: int | None
    ask_owner: bool  # fetch the identities of the endpoint's owner (no root)
    credentials_fd: int


class RunGate(Protocol):
    """The gate's main function: runs in its own process, unprivileged; returns the exit status."""

    def __call__(self, settings: GateSettings, monitor_fd: int) -> int: ...
