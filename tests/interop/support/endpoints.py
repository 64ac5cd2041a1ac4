"""The two endpoint daemons, ours and the stock one, behind one handle."""

from __future__ import annotations

import json
import pwd
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from interop.support import web
from interop.support.corner import SYSTEM_PATH, Corner, Program
from interop.support.directories import Directory
from interop.support.places import mep, our_environment, stock_bin
from interop.support.relay import ClientCredentials

START_LIMIT_S = 60.0


@dataclass
class Endpoint:
    """A daemon that is (or was) started from a directory. `which`: "stock" or "mep"."""

    which: str
    corner: Corner
    directory: Directory
    credentials: ClientCredentials
    user: str = "root"
    program: Program | None = None
    id: str = ""

    def start(self) -> None:
        """Start the daemon and return when the relay calls it online."""
        self.program = self.corner.start(
            self.command("start", self.directory.name),
            user=self.user,
            env=self.environment(),
            log=f"{self.which}-{self.directory.name}",
        )
        web.wait_until(self._is_registered, START_LIMIT_S, lambda: f"not registered:\n{self.tail()}")
        self.wait_status("online")

    def stop(self) -> None:
        """Stop it as an administrator does, and return when its process has ended."""
        if self.program is None:
            return
        self.cli("stop", self.directory.name, check=False)
        self.program.stop(within_s=30)
        self.program = None

    def restart(self) -> None:
        """Stop and start; the id stays."""
        before = self.id
        self.stop()
        self.start()
        assert self.id == before, "an endpoint that restarts keeps its id"

    def cli(self, *arguments: str, check: bool = True, stdin: str = "") -> CompletedProcess[str]:
        """Run the daemon's own command line (`mep` or `globus-compute-endpoint`) as its owner."""
        return self.corner.run(
            self.command(*arguments), user=self.user, env=self.environment(), check=check, stdin=stdin
        )

    def status(self) -> str:
        """Return what the relay says about it: "online" or "offline"."""
        token = web.client_token(self.credentials.client_id, self.credentials.client_secret)["access_token"]
        return str(web.request("GET", f"/v2/endpoints/{self.id}/status", token=token).body["status"])

    def wait_status(self, status: str, within_s: float = START_LIMIT_S) -> None:
        """Return when the relay reports `status`."""
        web.wait_until(
            lambda: self.status() == status, within_s, lambda: f"{self.which} is not {status}:\n{self.tail()}"
        )

    def tail(self) -> str:
        return self.program.tail(60) if self.program else ""

    def user_logs(self, user: str) -> str:
        """Return what user endpoints of `user` logged, for messages."""
        home = Path(pwd.getpwnam(user).pw_dir)
        logs = [*home.glob(".globus_compute/*/endpoint.log"), *home.glob(".local/state/mep/*/endpoint.log")]
        return "\n".join(f"{p}:\n{p.read_text(errors='replace')[-3000:]}" for p in logs)

    def command(self, *arguments: str) -> list[str]:
        """Return the daemon's command line with `arguments`."""
        if self.which == "stock":
            return [str(stock_bin() / "globus-compute-endpoint"), *arguments]
        return mep("--config-dir", self.directory.parent, *arguments)

    def environment(self) -> dict[str, str]:
        """Return its environment: credentials and addresses."""
        stock = {
            "GLOBUS_COMPUTE_USER_DIR": str(self.directory.parent),
            "PATH": f"{stock_bin()}:{SYSTEM_PATH}",  # an unprivileged daemon hands its PATH on to user endpoints
        }
        return {**self.credentials.environment(), **(stock if self.which == "stock" else our_environment())}

    # ---- inside ----

    def _is_registered(self) -> bool:
        assert self.program is not None
        assert self.program.running, f"the {self.which} endpoint ended:\n{self.tail()}"
        self.id = self._read_id()
        return bool(self.id)

    def _read_id(self) -> str:
        if self.which == "stock":
            file = self.directory.path / "endpoint.json"
            text = file.read_text() if file.exists() else ""
            return str(json.loads(text)["endpoint_id"]) if text else ""
        done = self.cli("status", self.directory.name, "--json", check=False)
        return str(json.loads(done.stdout).get("endpoint_id", "")) if done.returncode == 0 else ""
