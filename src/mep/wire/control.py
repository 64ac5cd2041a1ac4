"""What `mep status`, `stop`, `reload` ... say to a running endpoint over its control socket. JSON lines."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`verb`: status | stop | reload | drain | undrain | stop-user. `user` only with stop-user."""

    verb: str
    user: str = ""


class UepStatus(Struct, frozen=True, kw_only=True):
    """One user endpoint. `state`: starting | running | stopping | stuck. `since` in Unix seconds."""

    uep_id: str
    user: str
    uid: int
    pid: int
    state: str
    since: float
    identity: str = ""
    note: str = ""
    tasks_done: int = 0
    tasks_pending: int = 0


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """The relay's or the broker's side: `state` connected | connecting | refused, since when, and why."""

    state: str
    since: float
    detail: str = ""

    def describe(self, name: str) -> str:
        """Return it in one phrase, for a line of status."""
        return f"{name} {self.state}" + (f" ({self.detail})" if self.detail else "")


class FileStatus(Struct, frozen=True, kw_only=True):
    """A file of the endpoint whose last change is not in force because it is broken."""

    path: str
    error: str
    since: float


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """What `mep status --json` prints. `state`: starting | running | draining | stopping | stopped.

    `kept_by`: what holds the users' processes together. `problems`: what keeps it from taking work now. `failure`:
    why one that is stopped could not start or go on, at `since`.
    """

    name: str
    endpoint_id: str
    state: str
    pid: int = 0
    since: float = 0.0
    relay: ServiceStatus | None = None
    broker: ServiceStatus | None = None
    user_endpoints: list[UepStatus] = []
    broken_files: list[FileStatus] = []
    last_refusals: list[dict[str, str]] = []
    kept_by: str = ""
    problems: list[str] = []
    failure: str = ""


class Reply(Struct, frozen=True, kw_only=True):
    """`ok`, or an error's code and text; `status` with the status verb."""

    ok: bool
    code: str = ""
    text: str = ""
    status: EndpointStatus | None = None


def encode(message: Request | Reply) -> bytes:
    """Return one line."""
    return msgspec.json.encode(message) + b"\n"


decode_request = msgspec.json.Decoder(Request).decode
decode_reply = msgspec.json.Decoder(Reply).decode
