"""A real endpoint: `mep configure` and `mep start` as an administrator types them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.program import Program, clean_environment, mep, run
from support.relay import Relay
from support.wait import until

DOMAIN = "example.org"

#: Everybody at example.org becomes the local account of that name.
MAPPING: list[dict[str, Any]] = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": f"(.*)@{DOMAIN}", "output": "{0}"}],
    }
]

THREADS = """\
engine:
  type: ThreadPoolEngine
  max_workers: 2
"""


@dataclass
class Endpoint:
    """One endpoint folder below `config_dir`, and its daemon. `user`: who runs it ("" = the caller)."""

    name: str
    config_dir: Path
    relay: Relay
    user: str = ""
    program: Program | None = None
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.config_dir / self.name

    @property
    def state_dir(self) -> Path:
        return self.directory / ".mep"

    def configure(
        self,
        *,
        template: str = THREADS,
        schema: dict[str, Any] | None = None,
        mapping: list[dict[str, Any]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Endpoint:
        """Write its files by `mep configure`, then the given ones over them. `config`: keys for config.yaml."""
        mapping_file = self.config_dir / f"{self.name}-mapping.json"
        mapping_file.write_text(json.dumps(MAPPING if mapping is None else mapping))
        self.mep("configure", self.name, "--relay", self.relay.url, "--id-mapping-config", mapping_file)
        (self.directory / "user_config_template.yaml.j2").write_text(template)
        schema_file = self.directory / "user_config_schema.json"
        schema_file.write_text(json.dumps(schema if schema is not None else {"type": "object"}))
        if config:
            with (self.directory / "config.yaml").open("a") as file:
                file.write("".join(f"\n{key}: {json.dumps(value)}\n" for key, value in config.items()))
        return self

    def start(self, *, wait: bool = True) -> Endpoint:
        """Run the daemon in the foreground as a child; with `wait`, return when the broker knows it."""
        self.program = Program.start(
            mep("--config-dir", self.config_dir, "start", self.name),
            log=self.config_dir / f"{self.name}.log",
            env=self.environment(),
            user=self.user,
        )
        if wait:
            until(self._is_up, f"endpoint {self.name} is up", timeout_s=30.0)
        return self

    def stop(self) -> None:
        """Stop it as an administrator does; what is still there afterwards is an error."""
        if self.program is None:
            return
        if self.program.running:
            self.mep("stop", self.name, check=False)
        self.program.stop()
        self.program = None

    def status(self) -> dict[str, Any]:
        """Return what `mep status --json` prints."""
        done = self.mep("status", self.name, "--json", check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @property
    def id(self) -> str:
        return str(self.status()["endpoint_id"])

    def user_endpoints(self) -> list[dict[str, Any]]:
        return list(self.status()["user_endpoints"])

    def mep(self, *arguments: str | Path, check: bool = True) -> Any:
        """Run `mep --config-dir ... ARGUMENTS` as the endpoint's administrator."""
        return run(
            mep("--config-dir", self.config_dir, *arguments), env=self.environment(), user=self.user, check=check
        )

    def environment(self) -> dict[str, str]:
        return clean_environment(self.user, {"MEP_RELAY_URL": self.relay.url, **self.extra_env})

    def tail(self) -> str:
        return self.program.tail(80) if self.program else ""

    def log_text(self) -> str:
        log = self.config_dir / f"{self.name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _is_up(self) -> bool:
        assert self.program is not None
        if not self.program.running:
            raise RuntimeError(f"the endpoint ended:\n{self.tail()}")
        status = self.status()
        return status["state"] == "running" and (status.get("broker") or {}).get("state") == "connected"
