"""Our relay, as an administrator runs it: a foreground process on port 5000 of the corner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from interop.support import web
from interop.support.corner import Corner, Program
from interop.support.places import mep, our_environment
from interop.support.web import URL, wait_until

START_LIMIT_S = 60.0


@dataclass(frozen=True)
class ClientCredentials:
    """A program's identity at the relay."""

    client_id: str
    client_secret: str

    @property
    def username(self) -> str:
        return f"{self.client_id}@clients.auth.globus.org"

    def environment(self) -> dict[str, str]:
        """Return what the stock tools (and ours) take credentials and addresses from."""
        return {
            "GLOBUS_COMPUTE_CLIENT_ID": self.client_id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.client_secret,
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{URL}/",
            "MEP_RELAY_URL": URL,
        }


@dataclass
class Relay:
    """The running relay; tokens and clients are made with its command line."""

    corner: Corner
    data_dir: Path
    process: Program

    def token(self, identity: str) -> str:
        done = self.corner.run(mep("relay", "token", "--data-dir", self.data_dir, identity), env=our_environment())
        return done.stdout.strip().splitlines()[-1]

    def client(self, name: str) -> ClientCredentials:
        done = self.corner.run(
            mep("relay", "client", "--data-dir", self.data_dir, name, "--json"), env=our_environment()
        )
        answer = json.loads(done.stdout)
        return ClientCredentials(answer["client_id"], answer["client_secret"])

    def stop(self) -> int:
        return self.process.stop()


def start_relay(corner: Corner, *, name: str = "relay") -> Relay:
    """Start a relay with its private broker and return when it is healthy."""
    data_dir = corner.root / name
    process = corner.start(
        mep("relay", "serve", "--data-dir", data_dir, "--listen", "127.0.0.1:5000"),
        env=our_environment(),
        log=name,
    )
    wait_until(lambda: _healthy(process), START_LIMIT_S, lambda: f"the relay is not healthy:\n{process.tail()}")
    return Relay(corner, data_dir, process)


def _healthy(process: Program) -> bool:
    assert process.running, f"the relay ended:\n{process.tail()}"
    return bool(web.get_or_none("/healthz"))
