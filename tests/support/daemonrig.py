"""A real monitor with the test as its gate: privsep messages in and out, real forks, a boot that obeys."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mep.base.ids import new_id
from mep.config.endpoint import load_endpoint_config
from mep.config.paths import EndpointPaths
from mep.daemon.controlclient import ask
from mep.daemon.gatesettings import GateSettings, RunGate
from mep.daemon.lock import EndpointLock
from mep.daemon.settings import Endpoint, Parts
from mep.daemon.start import run_here
from mep.daemon.state import make_private_directory
from mep.host.accounts import own_account
from mep.priv import clone
from mep.priv.become import User
from mep.wire import control, privsep, signing
from mep.wire.control import EndpointStatus
from mep.wire.launch import Launch
from mep.wire.privsep import Channel, Decision, GateToMonitor, MonitorToGate, Start, UepEvent
from mep.wire.signing import StartClaims
from support.wait import until

WAIT_S = 10.0
OWNER = "11111111-0000-4000-8000-000000000001"
ENDPOINT_ID = "aaaaaaaa-0000-4000-8000-000000000001"


def claims_for(uep: str = "", **changes: Any) -> StartClaims:
    """Return claims of a start command for the owner, issued now; the payload is the caller's to match."""
    now = time.time()
    claims = StartClaims(
        aud=ENDPOINT_ID,
        jti=new_id(),
        iat=now,
        exp=now + 180,
        uep=uep or new_id(),
        sub=OWNER,
        username="owner@example.org",
        ids=[{"id": OWNER, "sub": OWNER, "username": "owner@example.org", "status": "used"}],
        sha256="0" * 64,
    )
    return msgspec.structs.replace(claims, **changes)


def boot_as_told(launch: Launch) -> int:
    """What a user process becomes in these tests: its payload is JSON, a list of steps."""
    sock = socket.socket(fileno=launch.monitor_fd)
    channel: Channel[Any, Any] = Channel(sock, privsep.MonitorToChild)
    steps = json.loads(os.pread(launch.payload_fd, 65536, 0) or b"[]")
    for step in steps:
        word, *arguments = step if isinstance(step, list) else [step]
        status = _STEPS[word](channel, *arguments)
        if status is not None:
            return int(status)
    return 0


def _say(message: Any) -> Any:
    def step(channel: Channel[Any, Any], *_: Any) -> None:
        channel.send(message)

    return step


def _serve(channel: Channel[Any, Any]) -> int:
    """Ready until told to quit; a refresh is noted."""
    channel.send(privsep.Ready())
    while True:
        got = channel.receive()
        if got is None:
            return 1
        message, fd = got
        if fd is not None:
            channel.send(privsep.Note(state=f"refreshed {os.pread(fd, 100, 0).decode()}"))
            os.close(fd)
        if isinstance(message, privsep.Quit):
            return 0


def _linger(_channel: Channel[Any, Any]) -> None:
    """Leave a process that ignores signals, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
        os._exit(0)


def _flood(channel: Channel[Any, Any], count: int) -> None:
    channel.send(privsep.Ready())
    for number in range(count):
        channel.send(privsep.Note(state=f"note {number}", tasks_done=number))


_STEPS: dict[str, Any] = {
    "ready": _say(privsep.Ready()),
    "fail": _say(privsep.Failed(code="TEMPLATE_INVALID", user_text="for the user", admin_text="for the admin")),
    "lie": _say(privsep.Failed(code="NO_SUCH_CODE", user_text="u", admin_text="a")),
    "lower": _say(privsep.Lower(memory=2**30, pids=50)),
    "mapped": _say(privsep.Mapped(uid=0, gid=0, user="root", rule="mine", identity="x")),
    "garbage": lambda channel: channel.sock.send(b"\xff\xff\xff") and None,
    "huge": lambda channel: channel.sock.send(b"x" * 70_000) and None,
    "raw": lambda channel, text: channel.sock.send(bytes.fromhex(text)) and None,
    "serve": _serve,
    "linger": _linger,
    "flood": _flood,
    "sleep": lambda _channel, seconds: time.sleep(seconds),
    "await": lambda channel: channel.receive() and None,
    "exit": lambda _channel, status: status,
    "die": lambda _channel, number: os.kill(os.getpid(), number),
    "when": lambda channel: channel.send(privsep.Note(state=f"booted at {time.monotonic()!r}")),
}


def hand_over(settings: GateSettings, monitor_fd: int) -> int:
    """The gate of these tests: gives its socket to the test, and lives until the test lets go."""
    with socket.socket(fileno=settings.credentials_fd) as bridge:
        socket.send_fds(bridge, [b"gate"], [monitor_fd])
        os.close(monitor_fd)
        bridge.recv(1)
    return 0


@dataclass
class DaemonRig:
    """A running monitor. `gate` is the test's end of the gate's socket."""

    paths: EndpointPaths
    child: clone.Child
    bridge: socket.socket
    gate: Channel[GateToMonitor, MonitorToGate] = field(init=False)
    key: Ed25519PrivateKey | None = None
    later: list[MonitorToGate] = field(default_factory=list)

    def take_gate(self) -> None:
        """Become the gate that the monitor has just started; the monitor says who lives."""
        self.bridge.settimeout(WAIT_S)
        _, fds, _, _ = socket.recv_fds(self.bridge, 10, 1)
        sock = socket.socket(fileno=fds[0])
        sock.settimeout(WAIT_S)
        self.gate = Channel(sock, MonitorToGate)

    def lose_gate(self) -> list[str]:
        """Crash the gate and become the next one; return the ids that the monitor names to it."""
        self.gate.close()
        self.later.clear()
        self.bridge.send(b"x")
        self.take_gate()
        running: privsep.Running = self.hear(privsep.Running)
        return running.uep_ids

    def register(self) -> None:
        keys = [signing.public_key(self.key)] if self.key is not None else []
        self.gate.send(privsep.Registered(endpoint_id=ENDPOINT_ID, keys=keys))
        self.gate.send(privsep.Owner(identities=[OWNER]))
        self.gate.send(privsep.ServiceState(service="broker", state="connected", since=time.time()))

    def start(self, claims: StartClaims, steps: list[Any], *, token: str | None = None) -> str:
        """Send a start command whose user process is to do `steps`; return the request's id."""
        request_id = new_id()
        fd = os.memfd_create("start", os.MFD_CLOEXEC)
        os.write(fd, json.dumps(steps).encode())
        if token is None:
            token = signing.sign(claims, self.key) if self.key is not None else ""
        encoded = b"" if token else msgspec.json.encode(claims)
        self.gate.send(Start(request_id=request_id, token=token, claims=encoded), fd)
        os.close(fd)
        return request_id

    def hear(self, kind: type[Any], request_id: str = "") -> Any:
        """Return the next message of `kind` (about `request_id`); others are kept for later calls."""
        for kept in self.later:
            if isinstance(kept, kind) and request_id in ("", getattr(kept, "request_id", "")):
                self.later.remove(kept)
                return kept
        while True:
            got = self.gate.receive()
            assert got is not None, "the monitor is gone"
            message, fd = got
            if fd is not None:
                os.close(fd)
            if isinstance(message, kind) and request_id in ("", getattr(message, "request_id", "")):
                return message
            self.later.append(message)

    def decision(self, request_id: str) -> Decision:
        found: Decision = self.hear(Decision, request_id)
        return found

    def event(self, request_id: str) -> UepEvent:
        found: UepEvent = self.hear(UepEvent, request_id)
        return found

    def ask_now(self, verb: str, **fields: str) -> control.Reply | None:
        """Return the answer, or None where nobody listens (yet)."""
        return ask(self.paths.control_socket, control.Request(verb=verb, **fields))

    def ask(self, verb: str, **fields: str) -> control.Reply:
        reply = self.ask_now(verb, **fields)
        assert reply is not None, "the endpoint does not listen"
        return reply

    def status(self) -> EndpointStatus:
        status = self.ask("status").status
        assert status is not None
        return status

    def stop(self) -> clone.Ended:
        """SIGTERM, goodbye, and the monitor's end."""
        clone.kill(self.child.pidfd, signal.SIGTERM)
        self.hear(privsep.Stop)
        return self.end()

    def end(self) -> clone.Ended:
        self.bridge.close()
        ended = clone.reap(self.child.pidfd, block=True)
        assert ended is not None
        return ended


@contextmanager
def daemon(
    folder: Path,
    *,
    config: str = "",
    signed: bool = False,
    key: Ed25519PrivateKey | None = None,
    run_gate: RunGate = hand_over,
    **changes: Any,
) -> Iterator[DaemonRig]:
    """Run a monitor over an endpoint folder below `folder`, registered; kill what is left of it at the end.

    `signed`: by a new key, which is the relay's; `key`: by the one it had before.
    """
    paths = EndpointPaths.locate("rig", folder, privileged=os.geteuid() == 0)
    paths.directory.mkdir(exist_ok=True)
    text = f"relay: http://127.0.0.1:9\n{config}"
    paths.config.write_text(text)
    if not paths.template.exists() and not paths.template_fallback.exists():
        paths.template.write_text("engine:\n  type: ThreadPoolEngine\n")
    make_private_directory(paths.state_dir)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    account = own_account()
    endpoint = Endpoint(
        name="rig",
        paths=paths,
        config=load_endpoint_config(text, source="config.yaml"),
        config_text=text,
        relay_url="http://127.0.0.1:9",
        auth_url="http://127.0.0.1:9",
        privileged=False,
        owner=User(account.name, account.uid, account.gid, account.gids, account.home),
        gate_user=None,
        credentials_fd=theirs.fileno(),
        environment={"PATH": os.environ["PATH"]},
        grace_s=1.0,
    )
    endpoint = replace(endpoint, **changes)
    parts = Parts(
        boot=boot_as_told,
        run_gate=run_gate,
        preload=lambda template: write_to(paths.state_dir / "preloaded", template),
        check_template=lambda text, source, includes: None,
        check_schema=lambda schema, source: None,
    )
    child = clone.spawn(lambda: _run(endpoint, parts, ours))
    theirs.close()
    rig = DaemonRig(paths, child, ours, key=Ed25519PrivateKey.generate() if signed else key)
    try:
        rig.take_gate()
        rig.register()
        until(lambda: rig.ask_now("status") is not None, "it serves")
        yield rig
    finally:
        clone.kill(child.pidfd)
        clone.reap(child.pidfd, block=True)
        os.close(child.pidfd)
        ours.close()


def write_to(path: Path, text: str) -> None:
    """Write it down where a test can see it."""
    path.write_text(text)


def _run(endpoint: Endpoint, parts: Parts, not_ours: socket.socket) -> int:
    not_ours.close()
    lock = EndpointLock(endpoint.paths.state_dir)
    lock.take()
    return run_here(endpoint, parts, lock, on_up=lambda _status, _text: None)
