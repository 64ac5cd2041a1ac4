"""Reading files for commands: an endpoint's own with the daemon's care, others as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.cli.context import Cli
from mep.config.endpoint import EndpointConfig, load_endpoint_config
from mep.config.paths import EndpointPaths
from mep.identity.mapping import Mapping

MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Endpoint:
    """A configured endpoint: its settings, and its paths with what the settings say about them."""

    paths: EndpointPaths
    config: EndpointConfig


def load_endpoint(cli: Cli, name: str) -> Endpoint:
    """Return the endpoint `name`; InputError names the file at fault."""
    paths = cli.existing(name)
    text = read_own(paths.config)
    config = load_endpoint_config(text, source=str(paths.config))
    return Endpoint(paths.configured(config), config)


def read_own(path: Path) -> str:
    """Return the text of a file of an endpoint, read with the daemon's care.

    HostError(CONFIG_UNTRUSTED) if others than root and the caller can change it or a folder above it, HostError or
    InputError if it cannot be read.
    """
    from mep.host.trusted import read_trusted

    return read_trusted(path, owner_uid=os.geteuid(), max_bytes=MAX_FILE_BYTES)


def read_given(path: Path) -> str:
    """Return the text of a file that was named on the command line; InputError(CONFIG_UNREADABLE) says why not."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(Code.CONFIG_UNREADABLE, f"{path} is larger than {MAX_FILE_BYTES} bytes.", step="")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(Code.CONFIG_UNREADABLE, f"Cannot read {path}: {error.strerror}.", step="") from None
    except UnicodeDecodeError:
        raise InputError(Code.CONFIG_UNREADABLE, f"{path} is not UTF-8 text.", step="") from None


def template_file(paths: EndpointPaths) -> Path:
    """Return the template's path: older stock folders have it without `.j2`."""
    return (
        paths.template_fallback
        if not paths.template.exists() and paths.template_fallback.exists()
        else paths.template
    )


def read_includes(template: Path) -> dict[str, str]:
    """Return what the template may include: the other *.j2 files in its folder, by name."""
    others = sorted(p for p in template.parent.glob("*.j2") if p != template)
    return {path.name: read_own(path) for path in others}


def parse_json(text: str, *, source: str, code: Code = Code.CONFIG_INVALID) -> Any:
    """Return the JSON in `text`; InputError(`code`) says where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(code, f"{source} is not valid JSON: {error}.", step="") from None


def parse_schema(text: str, *, source: str) -> Any:
    """Return the schema in `text`; InputError(CONFIG_INVALID | SCHEMA_INVALID)."""
    from mep.template import check_schema

    schema = parse_json(text, source=source)
    check_schema(schema, source=source)
    return schema


def parse_mapping(text: str, *, source: str, endpoint_id: str, timeout_s: float) -> Mapping:
    """Return the mapping in `text`; external programs run as this process's user, at each lookup."""
    from mep.host.programs import run_program

    def run(argv: Sequence[str], stdin: bytes) -> bytes:
        return run_program(argv, stdin, timeout_s=timeout_s)

    return Mapping.parse(text, source=source, endpoint_id=endpoint_id, run=run)
