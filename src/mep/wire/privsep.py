"""What monitor, gate and children say to each other: a closed set of typed, size-capped messages.

One message per SOCK_SEQPACKET packet, msgpack, each with its tag; file descriptors ride beside (SCM_RIGHTS).
`Channel` is the only code that reads or writes them. Each direction has its own union: what is not in the
union of a direction cannot be said in it.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.wire.keys import PublicKey
from mep.wire.limits import MAX_PRIVSEP_BYTES, MAX_TEXT_CHARS
from mep.wire.taskevents import TaskEvents, Time, Word

Standing = Literal["connected", "connecting", "refused"]  # with the relay, with the broker


class _Message(Struct, frozen=True, kw_only=True, tag_field="t", forbid_unknown_fields=True):
    pass


# ---- gate -> monitor ------------------------------------------------------------------------------------


class Start(_Message, frozen=True, kw_only=True, tag="start"):
    """Please start a user endpoint. One fd: the command's body in a sealed memfd, only passed on.

    `token` is the relay's signature; without one (stock service) `claims` holds the gate's reading, JSON of
    `signing.StartClaims`.
    """

    request_id: Word
    token: str = ""
    claims: bytes = b""


class ServiceState(_Message, frozen=True, kw_only=True, tag="service"):
    """How the gate stands with the relay or the broker. `since` in Unix seconds."""

    service: Literal["relay", "broker"]
    state: Standing
    since: Time
    detail: str = ""


class Registered(_Message, frozen=True, kw_only=True, tag="registered"):
    """The relay knows this endpoint. `keys` is empty where the service does not sign."""

    endpoint_id: Word
    keys: Annotated[list[PublicKey], Meta(max_length=8)]


class Owner(_Message, frozen=True, kw_only=True, tag="owner"):
    """Without root: the ids of the identities that the endpoint's owner has, the only ones it serves."""

    identities: list[str]


class Dismissed(_Message, frozen=True, kw_only=True, tag="dismissed"):
    """The gate has refused a start command by itself, before any check of its signature: only shown."""

    request_id: Word
    code: Word
    text: str


class Fatal(_Message, frozen=True, kw_only=True, tag="fatal"):
    """The gate cannot go on and a restart would not help (401, 404, locked ...)."""

    code: Word
    text: str
    exit_code: Annotated[int, Meta(ge=1, le=125)]


# ---- monitor -> gate ------------------------------------------------------------------------------------


class Decision(_Message, frozen=True, kw_only=True, tag="decision"):
    """What became of a `Start`: "started", "running" (same id, credentials refreshed) or "refused"."""

    request_id: str
    verdict: str
    code: str = ""
    user_text: str = ""


class UepEvent(_Message, frozen=True, kw_only=True, tag="uep"):
    """A user endpoint is "ready", "failed" (never became ready) or "ended" (was ready)."""

    uep_id: str
    request_id: str
    event: str
    code: str = ""
    user_text: str = ""


class Running(_Message, frozen=True, kw_only=True, tag="running"):
    """Told to a gate that starts, in as many parts as it takes: the user endpoints that live."""

    uep_ids: list[str]


class Reregister(_Message, frozen=True, kw_only=True, tag="reregister"):
    """The endpoint's files changed: tell the relay. One fd: the new metadata, JSON."""


class Stop(_Message, frozen=True, kw_only=True, tag="stop"):
    """Say goodbye to the relay (if `goodbye`) and exit."""

    goodbye: bool = True


# ---- child (request process, session, user endpoint) -> monitor ------------------------------------------


class Mapped(_Message, frozen=True, kw_only=True, tag="mapped"):
    """Sent before the drop: who it will be. The child waits for `Go`."""

    uid: int
    gid: int
    user: str
    rule: str
    identity: str


class Spawned(_Message, frozen=True, kw_only=True, tag="spawned"):
    """From a session process: the pid of the user process behind it, for `mep status`."""

    pid: int


class Lower(_Message, frozen=True, kw_only=True, tag="lower"):
    """From a user endpoint that starts: lower its limits to these. None leaves one as it is; none is raised."""

    memory: Annotated[int, Meta(gt=0)] | None = None  # bytes
    swap: Annotated[int, Meta(ge=0)] | None = None  # bytes
    pids: Annotated[int, Meta(gt=0)] | None = None
    cpu: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """Sent by the user endpoint once it takes tasks."""


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """It will not be: why, for the user and for the administrator."""

    code: str
    user_text: str
    admin_text: str


class Note(_Message, frozen=True, kw_only=True, tag="note"):
    """A user endpoint's state for `mep status`: engine, counts, idle countdown. Untrusted: shown, never obeyed."""

    state: str
    tasks_done: int = 0
    tasks_pending: int = 0


# ---- monitor -> child -----------------------------------------------------------------------------------


class Go(_Message, frozen=True, kw_only=True, tag="go"):
    """Admitted: become the user."""


class Refresh(_Message, frozen=True, kw_only=True, tag="refresh"):
    """A new start command for a running user endpoint. One fd: its body, with newer credentials."""


class Hold(_Message, frozen=True, kw_only=True, tag="hold"):
    """Take no more tasks, because of `why`, finish what was taken and leave; with "": take tasks again."""

    why: str = ""


class Quit(_Message, frozen=True, kw_only=True, tag="quit"):
    """Finish: no new tasks; leave within `grace_s` seconds."""

    grace_s: float


GateToMonitor = Start | ServiceState | Registered | Owner | Dismissed | Fatal
MonitorToGate = Decision | UepEvent | Running | Reregister | Stop
ChildToMonitor = Mapped | Spawned | Lower | Ready | Failed | Note | TaskEvents
MonitorToChild = Go | Refresh | Hold | Quit

#: Made once, before anything forks: it costs a child 0.5 ms and 0.2 MiB of its own.
_DECODERS: dict[object, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (GateToMonitor, MonitorToGate, ChildToMonitor, MonitorToChild)
}

R = TypeVar("R")
S = TypeVar("S")


class Channel(Generic[S, R]):
    """One end of a privsep socket: sends S, receives R.

    `send` and `receive` raise BlockingIOError on a non-blocking socket that is not ready; HostError(INTERNAL)
    on a message that is too large or not in the union. A peer that is gone: `receive` returns None.
    """

    def __init__(self, sock: socket.socket, receives: object) -> None:
        self.sock = sock
        self._decoder: msgspec.msgpack.Decoder[R] = _DECODERS.get(receives) or msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, message: S, fd: int | None = None) -> None:
        body = self._encoder.encode(message)
        if len(body) > MAX_PRIVSEP_BYTES:
            raise HostError(Code.INTERNAL, f"Message of {len(body)} bytes to another process is too large.")
        fds = [] if fd is None else [fd]
        socket.send_fds(self.sock, [body], fds)

    def receive(self) -> tuple[R, int | None] | None:
        """Return (message, fd or None), or None at the end. The caller owns (and closes) the fd."""
        try:
            body, fds, flags = _receive_with_fds(self.sock)
        except ConnectionResetError:
            return None
        fd = _only_one(fds)
        if not body and fd is None:
            return None
        try:
            if len(body) > MAX_PRIVSEP_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(fds) > 1:
                raise HostError(Code.INTERNAL, "A message of another process is too large or has too many fds.")
            try:
                return self._decoder.decode(body), fd
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise HostError(Code.INTERNAL, f"A message of another process is invalid: {error}.") from None
        except HostError:
            if fd is not None:
                os.close(fd)
            raise


def _receive_with_fds(sock: socket.socket) -> tuple[bytes, list[int], int]:
    """Return a packet, its descriptors (close-on-exec) and its flags.

    Not socket.recv_fds: it takes flags and drops them, so that descriptors would leak into programs we run.
    """
    room = socket.CMSG_LEN(4 * array.array("i").itemsize)
    body, ancillary, flags, _ = sock.recvmsg(MAX_PRIVSEP_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return body, list(fds), flags


def _only_one(fds: list[int]) -> int | None:
    """Keep the first fd; close what a peer sent beside it."""
    for extra in fds[1:]:
        os.close(extra)
    return fds[0] if fds else None


def cap_text(text: str) -> str:
    """Return `text` cut to what a privsep message carries, without control characters that forge lines."""
    clean = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= MAX_TEXT_CHARS else clean[: MAX_TEXT_CHARS - 1] + "…"


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a privsep socket, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
