"""A real relay: `mep relay serve` as a child, on the session's broker or on a private one."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mep.relay.brokeraddress import BrokerAddress
from support import guards
from support.program import Program, clean_environment, mep, run
from support.wait import until


class ClientCredentials(NamedTuple):
    """A program's account at the relay."""

    client_id: str
    client_secret: str

    @property
    def username(self) -> str:
        return f"{self.client_id}@clients.auth.globus.org"


@dataclass
class Relay:
    """A relay on a port of its own. `broker`: the one to use; None = a private node (8 s more to start).

    `outlives_test`: a fixture of a wider scope ends it, even if a test starts it again.
    """

    data_dir: Path
    broker: BrokerAddress | None = None
    options: list[str] = field(default_factory=list)
    port: int = 0
    outlives_test: bool = False
    program: Program | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Relay:
        """Start it (again, on the same port) and return when it is healthy."""
        self.port = self.port or free_port()
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        extra = {}
        if self.broker is not None:
            extra["MEP_RELAY_BROKER_URL"] = self.broker.amqp.reveal()
            extra["MEP_RELAY_BROKER_MANAGEMENT_URL"] = self.broker.management.reveal()
        self.program = Program.start(
            mep(
                "relay", "serve", "--data-dir", self.data_dir, "--listen", f"127.0.0.1:{self.port}", *self.options
            ),
            log=self.data_dir.parent / f"{self.data_dir.name}.log",
            env=clean_environment(extra=extra),
        )
        if self.outlives_test:
            guards.expected.add(self.program.pid)
        until(self._healthy, "the relay is healthy", timeout_s=60.0)
        return self

    def stop(self) -> None:
        if self.program is not None:
            self.program.stop()

    def kill(self) -> None:
        """kill -9; `start` brings it back."""
        assert self.program is not None
        self.program.kill()

    def token(self, identity: str) -> str:
        """Return a bearer token of `identity`, making the account at the first call."""
        if identity not in self._tokens:
            done = run(mep("relay", "token", "--data-dir", self.data_dir, identity), env=clean_environment())
            self._tokens[identity] = done.stdout.strip().splitlines()[-1]
        return self._tokens[identity]

    def client(self, name: str) -> ClientCredentials:
        """Make and return the account of a program or an endpoint."""
        command = mep("relay", "client", "--data-dir", self.data_dir, name, "--json")
        answer = json.loads(run(command, env=clean_environment()).stdout)
        return ClientCredentials(answer["client_id"], answer["client_secret"])

    def sdk_env(self, identity: str) -> dict[str, str]:
        """Return what makes the SDK (and every mep command) talk to this relay as `identity`."""
        return {"MEP_RELAY_URL": self.url, "MEP_TOKEN": self.token(identity)}

    def tail(self) -> str:
        return self.program.tail(60) if self.program else ""

    def _healthy(self) -> bool:
        assert self.program is not None
        if not self.program.running:
            raise RuntimeError(f"the relay ended:\n{self.program.tail()}")
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return int(answer.status) == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
