"""Workers in containers: the command that starts them, wrapped."""

from __future__ import annotations

from typing import Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.engines import ParslEngine

_DOCKER_LIKE: Final = ("docker", "podman", "podman-hpc")


def in_container(config: ParslEngine, command: str, *, run_dir: str) -> str:
    """Return `command` (Parsl's template that starts workers) inside the configured container, if there is one."""
    kind, options = config.container_type, config.container_cmd_options or ""
    if kind is None:
        return command
    if kind == "custom":
        if not options:
            raise InputError(
                Code.CONFIG_INVALID,
                "engine: container_type custom needs container_cmd_options, the whole command.",
            )
        return options.replace("{EXECUTOR_RUNDIR}", run_dir).replace("{EXECUTOR_LAUNCH_CMD}", command)
    if not config.container_uri:
        raise InputError(Code.CONFIG_INVALID, f"engine: container_type {kind} needs container_uri, the image.")
    if kind in _DOCKER_LIKE:
        parts = [kind, "run", options, f"-v {run_dir}:{run_dir}", "-t", config.container_uri, command]
    else:
        parts = [kind, "run", options, config.container_uri, command]
    return " ".join(part for part in parts if part)
