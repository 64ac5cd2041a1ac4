"""The demo's processes: a relay, an endpoint, and the count of what is left when both are gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sandbox

RELAY_URL = "http://127.0.0.1:5000"
NAME = "demo"

TEMPLATE = """\
# The administrator decides what an engine is; users choose within the schema.
engine:
  type: {{ engine }}
  max_workers: {{ workers }}
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "engine": {"enum": ["ThreadPoolEngine", "ProcessPoolEngine"]},
        "workers": {"type": "integer", "minimum": 1, "maximum": 4},
    },
    "required": ["engine", "workers"],
    "additionalProperties": False,
}
ENVIRONMENT = "CLUSTER: demo\n"
MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example.org", "output": "{0}"}],
    }
]

#: Where something could stay behind that the sandbox shows; all of it is private and was empty or the host's.
_WATCHED = ("/tmp", "/var/tmp", "/dev/shm", "/run/mep", "/var/lib/mep", "/etc/mep")


class DemoError(Exception):
    """The demo cannot go on; the text says what was being done and what the program printed."""


class Rig:
    """Starts things in order and stops them in reverse, whatever happens in between."""

    def __init__(self) -> None:
        self._files_before = _files()
        self._cgroups_before = _cgroups()
        self.folder = Path(tempfile.mkdtemp(prefix="demo-", dir="/home"))
        self.folder.chmod(0o755)
        self.data_dir, self.config_dir = self.folder / "relay", self.folder / "etc"
        self._running: list[tuple[str, subprocess.Popen[bytes], Callable[[], object]]] = []
        self._credentials: dict[str, str] = {}

    # ---- the programs, as an administrator types them ----

    def start_relay(self) -> None:
        self._spawn(
            "relay", "relay", "serve", "--data-dir", self.data_dir, "--listen", RELAY_URL.removeprefix("http://")
        )
        self._wait("relay", 60.0, _is_healthy)

    def token(self, identity: str) -> str:
        return self.mep("relay", "token", "--data-dir", self.data_dir, identity).strip().splitlines()[-1]

    def make_client(self) -> None:
        answer = json.loads(self.mep("relay", "client", "--data-dir", self.data_dir, NAME, "--json"))
        self._credentials = {"MEP_CLIENT_ID": answer["client_id"], "MEP_CLIENT_SECRET": answer["client_secret"]}

    def configure(self) -> Path:
        """Make the endpoint's folder; return it."""
        mapping = self.folder / "identity_mapping.json"
        mapping.write_text(json.dumps(MAPPING))
        self.config_dir.mkdir()
        self.endpoint("configure", NAME, "--relay", RELAY_URL, "--id-mapping-config", str(mapping))
        folder = self.config_dir / NAME
        (folder / "user_config_template.yaml.j2").write_text(TEMPLATE)
        (folder / "user_config_schema.json").write_text(json.dumps(SCHEMA, indent=2))
        (folder / "user_environment.yaml").write_text(ENVIRONMENT)
        return folder

    def start_endpoint(self) -> str:
        """Start the daemon; return the endpoint's id once the broker knows it."""
        self._spawn(
            "endpoint",
            "--config-dir",
            self.config_dir,
            "start",
            NAME,
            before_stop=lambda: self.endpoint("stop", NAME),
        )
        self._wait("endpoint", 30.0, self._endpoint_is_up)
        return str(self.status()["endpoint_id"])

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.endpoint("status", NAME, "--json"))
        return answer

    def endpoint(self, *arguments: str) -> str:
        """Run `mep --config-dir ... ARGUMENTS`; return what it printed."""
        return self.mep("--config-dir", self.config_dir, *arguments)

    def mep(self, *arguments: str | Path) -> str:
        command = _mep(*arguments)
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise DemoError(f"`mep {' '.join(map(str, arguments))}` ended with {done.returncode}: {done.stderr}")
        return done.stdout

    # ---- the end ----

    def stop(self) -> list[str]:
        """Stop all, newest first, and remove the demo's folder; return the names of what had to be killed."""
        killed = []
        while self._running:
            name, process, before_stop = self._running.pop()
            try:
                if process.poll() is None:
                    before_stop()
                    process.send_signal(signal.SIGTERM)
                process.wait(20)
            except (DemoError, subprocess.TimeoutExpired):
                killed.append(name)
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return killed

    def leftovers(self, within_s: float = 5.0) -> list[str]:
        """Return what is left in the sandbox: processes, files in shared places, control groups."""
        end = time.monotonic() + within_s
        while True:
            left = [f"process {entry}" for entry in _processes()]
            left += [f"file {path}" for path in sorted(_files() - self._files_before)]
            left += [f"cgroup {path}" for path in sorted(_cgroups() - self._cgroups_before)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.05)

    # ---- inside ----

    def _spawn(self, name: str, *arguments: str | Path, before_stop: Callable[[], object] = lambda: None) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                _mep(*arguments),
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a ^C is ours to handle: we stop things in order
            )
        self._running.append((name, process, before_stop))

    def _wait(self, name: str, timeout_s: float, ready: Callable[[], bool]) -> None:
        process = next(process for known, process, _ in self._running if known == name)
        end = time.monotonic() + timeout_s
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                log = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise DemoError(f"the {name} did not start (exit status {process.poll()}):\n{log}")
            time.sleep(0.05)

    def _endpoint_is_up(self) -> bool:
        try:
            status = self.status()
        except (DemoError, ValueError):
            return False
        return status["state"] == "running" and (status.get("broker") or {}).get("state") == "connected"

    def _env(self) -> dict[str, str]:
        return dict(os.environ) | {"MEP_RELAY_URL": RELAY_URL} | self._credentials


def _mep(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "mep", *map(str, arguments)]


def _is_healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{RELAY_URL}/healthz", timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _processes() -> list[str]:
    """Return the processes of the sandbox but its first and this one."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if command:  # a zombie that process 1 has yet to reap has none
            found.append(f"{name}: {command.strip()[:120]}")
    return found


def _files() -> set[str]:
    return {
        os.path.join(folder, name)
        for top in _WATCHED
        for folder, folders, files in os.walk(top)
        for name in (*folders, *files)
    }


def _cgroups() -> set[str]:
    own = sandbox.own_cgroup()
    return {folder for folder, _, _ in os.walk(own)} - {str(own)} if own else set()
