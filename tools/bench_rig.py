"""One relay, one endpoint of each kind and one SDK of each kind: what the rows of the benchmark measure."""

from __future__ import annotations

import contextlib
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench_probe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from interop.support.corner import Corner
from interop.support.corner import corner as make_corner
from interop.support.directories import write_directory
from interop.support.endpoints import Endpoint
from interop.support.relay import Relay, start_relay
from interop.support.sdk import SdkProcess, start_sdk

CROWD = [f"u{number:03}" for number in range(1, 201)]  # the sandbox's throw-away users


@dataclass
class Side:
    """ "mep": our SDK and our endpoint; "stock": the stock ones."""

    name: str
    rig: Rig
    endpoint: Endpoint
    sdk: SdkProcess

    def ask(self, verb: str, user: str, **request: Any) -> Any:
        """Let the SDK do something as `user`, who the relay knows as user@example.org."""
        identity = self.rig.identity(user)
        return self.sdk.ask(verb, identity=identity, endpoint=self.endpoint.id, **request)

    def daemon(self) -> dict[int, str]:
        """Return pid -> title of the daemon's own processes, user endpoints left out."""
        program = self.endpoint.program
        assert program is not None
        pids = [program.pid, *bench_probe.children_of(program.pid)]
        return {pid: bench_probe.title_of(pid) for pid in pids if _uid(pid) < 20000}


@dataclass
class Rig:
    """Everything that runs, and users who have not been seen yet."""

    corner: Corner
    relay: Relay
    sides: list[Side] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    _fresh: list[str] = field(default_factory=lambda: list(CROWD))

    def identity(self, user: str) -> str:
        """Return the user's identity; its token is made at first use."""
        identity = f"{user}@example.org"
        if identity not in self.tokens:
            self.tokens[identity] = self.relay.token(identity)
        return identity

    def fresh_users(self, count: int) -> list[str]:
        """Return users who never submitted anything; their tokens are ready."""
        users, self._fresh = self._fresh[:count], self._fresh[count:]
        assert len(users) == count, "the sandbox has no more users"
        for user in users:
            self.identity(user)
        return users


def clear(users: list[str]) -> None:
    """End all processes of these users: their user endpoints."""
    bench_probe.end_processes_of([pwd.getpwnam(user).pw_uid for user in users])


def processes(user: str) -> list[int]:
    return bench_probe.processes_of(pwd.getpwnam(user).pw_uid)


@contextlib.contextmanager
def rig(kinds: list[str]) -> Iterator[Rig]:
    """Start everything; stop it and remove every file at the end."""
    with make_corner() as corner:
        relay = start_relay(corner)
        made = Rig(corner, relay)
        try:
            for kind in kinds:
                directory = write_directory(corner.root / f"{kind}-etc", "site", heartbeat_s=30)
                endpoint = Endpoint(kind, corner, directory, relay.client(f"{kind}-site"))
                endpoint.start()
                made.sides.append(Side(kind, made, endpoint, start_sdk(corner, kind, made.tokens)))
            yield made
        finally:
            for side in made.sides:
                side.sdk.stop()
                side.endpoint.stop()
            clear(CROWD)
            relay.stop()


def _uid(pid: int) -> int:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return -1
