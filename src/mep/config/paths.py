"""Where an endpoint's files are. Pure: nothing here looks at the disk or the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mep.base.codes import Code
from mep.base.errors import InputError

if TYPE_CHECKING:
    from mep.config.endpoint import EndpointConfig

SYSTEM_CONFIG_DIR: Final = Path("/etc/mep")
_SYSTEM_STATE_DIR: Final = Path("/var/lib/mep")
_SYSTEM_RUN_DIR: Final = Path("/run/mep")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def default_config_dir(*, privileged: bool, home: Path) -> Path:
    """Return the folder of endpoint folders that is used when nobody names another."""
    return SYSTEM_CONFIG_DIR if privileged else home / ".config" / "mep"


def check_name(name: str) -> str:
    """Return `name` if it may name an endpoint (it becomes a folder); InputError(USAGE) otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(
            Code.USAGE,
            f"{name[:140]!r} cannot name an endpoint: use 1 to 128 letters, digits, '_', '-', '.', not starting "
            "with '-' or '.'.",
            step="",
        )
    return name


@dataclass(frozen=True)
class EndpointPaths:
    """Every file and folder of one endpoint.

    `template_fallback` is read where `template` is absent (older stock folders have no `.j2`).
    `state_dir` outlives the daemon (ids, keys, replay cache); `run_dir` need not.
    """

    name: str
    directory: Path
    config: Path
    template: Path
    template_fallback: Path
    schema: Path
    environment: Path
    mapping: Path
    endpoint_json: Path  # a stock folder keeps the endpoint's id here
    state_dir: Path
    run_dir: Path
    audit_log: Path
    control_socket: Path

    @classmethod
    def locate(
        cls,
        name: str,
        config_dir: Path,
        privileged: bool,  # noqa: FBT001 - the three facts that decide, always given in this order
        *,
        home: Path | None = None,
        runtime_dir: Path | None = None,
    ) -> EndpointPaths:
        """Return the paths of endpoint `name` under `config_dir`.

        `home` (default: the caller's) and `runtime_dir` (XDG_RUNTIME_DIR, if there is one) matter only to an
        unprivileged endpoint in the default folder. InputError(USAGE) where `name` cannot be an endpoint's name.
        """
        directory = config_dir / check_name(name)
        home = home or Path.home()
        if privileged and config_dir == SYSTEM_CONFIG_DIR:
            state, run = _SYSTEM_STATE_DIR / name, _SYSTEM_RUN_DIR / name
        elif not privileged and config_dir == default_config_dir(privileged=False, home=home):
            state = home / ".local" / "state" / "mep" / name
            run = runtime_dir / "mep" / name if runtime_dir else state / "run"
        else:
            state = run = directory / ".mep"
        return cls(
            name=name,
            directory=directory,
            config=directory / "config.yaml",
            template=directory / "user_config_template.yaml.j2",
            template_fallback=directory / "user_config_template.yaml",
            schema=directory / "user_config_schema.json",
            environment=directory / "user_environment.yaml",
            mapping=directory / "identity_mapping.json",
            endpoint_json=directory / "endpoint.json",
            state_dir=state,
            run_dir=run,
            audit_log=state / "audit.log",
            control_socket=run / "control.sock",
        )

    def configured(self, config: EndpointConfig) -> EndpointPaths:
        """Return these paths with those that config.yaml names; relative ones start in the endpoint's folder."""
        template = _named(self.directory, config.user_config_template_path)
        return replace(
            self,
            template=template or self.template,
            template_fallback=template.with_suffix("") if template else self.template_fallback,
            schema=_named(self.directory, config.user_config_schema_path) or self.schema,
            environment=_named(self.directory, config.user_environment_path) or self.environment,
            mapping=_named(self.directory, config.identity_mapping_config_path) or self.mapping,
            audit_log=_named(self.directory, config.audit_log_path) or self.audit_log,
        )


def _named(directory: Path, path: str | None) -> Path | None:
    return directory / path if path else None
