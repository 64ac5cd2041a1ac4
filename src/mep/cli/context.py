"""What every command is told: where the endpoints are, and whether it may act as root."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.ids import is_uuid
from mep.config.paths import EndpointPaths, default_config_dir


@dataclass(frozen=True)
class Cli:
    """`config_dir` holds one folder per endpoint; `privileged`: the effective user is root."""

    config_dir: Path
    privileged: bool
    runtime_dir: Path | None = None

    @classmethod
    def make(cls, config_dir: Path | None, *, env: Mapping[str, str]) -> Cli:
        """Combine the option, MEP_CONFIG_DIR and the default, in this order."""
        privileged = os.geteuid() == 0
        chosen = config_dir or (Path(env["MEP_CONFIG_DIR"]) if env.get("MEP_CONFIG_DIR") else None)
        runtime = env.get("XDG_RUNTIME_DIR")
        return cls(
            config_dir=chosen.absolute()
            if chosen
            else default_config_dir(privileged=privileged, home=Path.home()),
            privileged=privileged,
            runtime_dir=Path(runtime) if runtime else None,
        )

    def locate(self, name: str) -> EndpointPaths:
        """Return the paths of an endpoint that need not exist yet."""
        return EndpointPaths.locate(name, self.config_dir, self.privileged, runtime_dir=self.runtime_dir)

    def names(self) -> list[str]:
        """Return the names of the configured endpoints: folders that hold a config.yaml."""
        try:
            return sorted(p.parent.name for p in self.config_dir.glob("*/config.yaml"))
        except OSError:
            return []

    def existing(self, name: str) -> EndpointPaths:
        """Return the paths of a configured endpoint, by name or id; InputError(ENDPOINT_UNKNOWN) otherwise."""
        paths = self._by_id(name) if is_uuid(name) else self.locate(name)
        if paths is None or not paths.directory.is_dir():
            near = difflib.get_close_matches(name, self.names(), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                Code.ENDPOINT_UNKNOWN,
                f"There is no endpoint {name!r} in {self.config_dir}.{hint}",
                step="`mep list` shows the configured endpoints.",
            )
        return paths

    def _by_id(self, endpoint_id: str) -> EndpointPaths | None:
        from mep.cli.state import read_endpoint_id

        for name in self.names():
            paths = self.locate(name)
            if read_endpoint_id(paths) == endpoint_id:
                return paths
        return None


def pass_cli(function: Any) -> Any:
    """Decorator: hand the command its `Cli` first."""
    return click.make_pass_decorator(Cli)(function)


def endpoint_argument(function: Any) -> Any:
    """Decorator: the NAME of an endpoint, `default` where none is given (as the stock command)."""
    return click.argument("name", required=False, default="default")(function)
