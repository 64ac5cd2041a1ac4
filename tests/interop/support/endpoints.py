"""The two endpoint daemons, ours and the stock one, behind one handle."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.support.directories import Directory
from interop.support.places import mep, our_environment, our_python, stock_venv
from interop.support.relay import ClientCredentials
from interop.support.sandbox import Inside, Sandbox

START_LIMIT_S = 60.0

#: Ends when the relay says that the endpoint is online; asks with the endpoint's own credentials.
_WAIT_ONLINE = """
import base64, json, os, sys, time, urllib.parse, urllib.request
relay, endpoint, end = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])
pair = f"{os.environ['GLOBUS_COMPUTE_CLIENT_ID']}:{os.environ['GLOBUS_COMPUTE_CLIENT_SECRET']}"
form = {"grant_type": "client_credentials",
        "scope": "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"}
ask = urllib.request.Request(relay + "/v2/oauth2/token", urllib.parse.urlencode(form).encode(),
                             {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()})
token = json.load(urllib.request.urlopen(ask))["access_token"]
want = sys.argv[4]
while True:
    ask = urllib.request.Request(f"{relay}/v2/endpoints/{endpoint}/status",
                                 headers={"Authorization": "Bearer " + token})
    status = json.load(urllib.request.urlopen(ask))["status"]
    if status == want:
        break
    if time.monotonic() > end:
        sys.exit(f"endpoint is {status}, not {want}")
    time.sleep(0.05)
"""


@dataclass
class Endpoint:
    """A daemon that is (or was) started from a directory. `which`: "stock" or "mep"."""

    which: str
    corner: Sandbox
    directory: Directory
    credentials: ClientCredentials
    user: str = "root"
    process: Inside | None = None
    id: str = ""

    @property
    def log(self) -> Path:
        return self.corner.root / f"{self.which}-{self.directory.name}.log"

    def start(self) -> None:
        """Start the daemon and return when the relay calls it online."""
        self.process = self.corner.start(
            self._command("start"), user=self.user, env=self._environment(), log=self.log
        )
        self.id = self._wait_for_id()
        self.wait_status("online")

    def stop(self) -> None:
        """Stop it as an administrator does, and return when its process has ended."""
        if self.process is None:
            return
        self.corner.run(self._command("stop"), user=self.user, env=self._environment(), check=False)
        self.process.stop(within_s=30)
        self.process = None

    def restart(self) -> None:
        before = self.id
        self.stop()
        self.start()
        assert self.id == before, "an endpoint that restarts keeps its id"

    def cli(self, *arguments: str, check: bool = True, stdin: str = "") -> Any:
        """Run the daemon's own command line (`mep` or `globus-compute-endpoint`) as its owner."""
        return self.corner.run(
            self._program(*arguments), user=self.user, env=self._environment(), check=check, stdin=stdin
        )

    def wait_status(self, status: str, within_s: float = START_LIMIT_S) -> None:
        """Return when the relay reports `status` ("online" or "offline") for it."""
        script = [our_python(), "-c", _WAIT_ONLINE, "http://localhost:5000", self.id, str(within_s), status]
        try:
            self.corner.run(script, env=self.credentials.environment(), within_s=within_s + 10)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.which} endpoint's log:\n{self.tail()}") from None

    def tail(self) -> str:
        return self.process.tail(60) if self.process else ""

    def user_log(self, user: str) -> str:
        """Return what user endpoints of `user` logged, for messages."""
        home = self.corner.accounts[user].home
        logs = [*home.glob(".globus_compute/*/endpoint.log"), *home.glob(".local/state/mep/*/endpoint.log")]
        return "\n".join(f"{p}:\n{p.read_text(errors='replace')[-3000:]}" for p in logs)

    # ---- inside ----

    def _program(self, *arguments: str) -> list[str]:
        if self.which == "stock":
            return [str(stock_venv() / "bin" / "globus-compute-endpoint"), *arguments]
        return mep("--config-dir", self.directory.parent, *arguments)

    def _command(self, verb: str) -> list[str]:
        return self._program(verb, self.directory.name)

    def _environment(self) -> dict[str, str]:
        more = (
            {"GLOBUS_COMPUTE_USER_DIR": str(self.directory.parent)} if self.which == "stock" else our_environment()
        )
        return {**self.credentials.environment(), **more}

    def _wait_for_id(self) -> str:
        """Return the id that the daemon was registered under, once it wrote (or says) it."""
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.process.poll() is not None:
                break
            found = self._read_id()
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"the {self.which} endpoint did not start:\n{self.tail()}")

    def _read_id(self) -> str:
        if self.which == "stock":
            file = self.directory.path / "endpoint.json"
            text = file.read_text() if file.exists() else ""
            return str(json.loads(text)["endpoint_id"]) if text else ""
        done = self.cli("status", self.directory.name, "--json", check=False)
        try:
            return str(json.loads(done.stdout)["endpoint_id"]) if done.returncode == 0 else ""
        except (ValueError, KeyError):
            return ""
