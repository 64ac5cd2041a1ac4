"""The endpoint's files that are read again when they change: template, schema, environment, identity mapping, and
of config.yaml who may and how many.

A broken file never takes effect: the last good one stays in force, one log line and `mep status` say so.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mep.admit.rules import rehearse
from mep.base.codes import Code
from mep.base.errors import InputError, MepError
from mep.config.endpoint import LIVE_SETTINGS, EndpointConfig, load_endpoint_config
from mep.config.environment import load_user_environment
from mep.config.paths import EndpointPaths
from mep.daemon.settings import Parts
from mep.host.programs import run_program
from mep.host.trusted import check_command, read_own, read_trusted
from mep.identity.mapping import Mapping
from mep.priv.warden import run_and_sweep
from mep.wire.control import FileStatus

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Template:
    """A template's text, its label in messages, and what it may include, by name."""

    text: str
    source: str
    includes: dict[str, str]


class _Live(Generic[T]):
    """One file: its value now, and what is wrong with the newest version, if anything."""

    def __init__(self, path: Path, read: Callable[[Path], T], value: T | None = None) -> None:
        self.path = path
        self._read = read
        # At the start there is no last good one: errors are the caller's.
        self.value = read(path) if value is None else value
        self.broken: FileStatus | None = None

    def reload(self) -> bool:
        """Read it again; True if the value in force changed."""
        try:
            value = self._read(self.path)
        except MepError as error:
            text = error.for_admin()
            if self.broken is None or self.broken.error != text:
                log.error("%s: the change is not in force: %s", self.path, text)
                self.broken = FileStatus(path=str(self.path), error=text, since=time.time())
            return False
        if self.broken is not None:
            log.info("%s is good again", self.path)
            self.broken = None
        changed = value != self.value
        self.value = value
        return changed


class LiveFiles:
    """All of them. As root, only those are read that nobody else can have written."""

    def __init__(
        self, paths: EndpointPaths, *, endpoint_id: str, privileged: bool, config: EndpointConfig, parts: Parts
    ) -> None:
        """Read all; InputError and HostError name the file at fault. Privilege: read access to them.

        `privileged`: the endpoint maps identities, so a mapping must be there, and what steers root is checked.
        `config`: config.yaml as it was read at the start.
        """
        self._parts = parts
        self._privileged = privileged
        self._endpoint_id = endpoint_id
        self._mapping_timeout_s = config.mapping_timeout_s
        self._started_with = config
        self._waiting: FileStatus | None = None
        self._paths = paths
        self.edition = 0  # grows with each change of who may be who: of config.yaml and of the mapping
        self._template = _Live(paths.template, self._read_template)
        self._schema = _Live(paths.schema, self._read_schema)
        self._environment = _Live(paths.environment, self._read_environment)
        self._mapping = _Live(paths.mapping, self._read_mapping) if privileged else None
        self._config = _Live(paths.config, self._read_config, config)
        self._settle()
        files = (self._config, self._template, self._schema, self._environment, self._mapping)
        self._all: tuple[_Live[Any], ...] = tuple(live for live in files if live is not None)

    def _settle(self) -> None:
        """Work out what every start needs: no child has to.

        `config`: the settings in force: those of the start, and the live ones as the file has them now.
        `plain_config`: the same as plain data, for templates.
        """
        live = {name: getattr(self._config.value, name) for name in LIVE_SETTINGS}
        self.config: EndpointConfig = self._started_with.model_copy(update=live)
        self.plain_config: dict[str, Any] = self.config.model_dump(mode="json")
        rehearse(self.config)

    @property
    def template(self) -> Template:
        return self._template.value

    @property
    def schema(self) -> dict[str, Any] | None:
        return self._schema.value

    @property
    def environment(self) -> dict[str, str]:
        return self._environment.value

    @property
    def mapping(self) -> Mapping | None:
        return self._mapping.value[1] if self._mapping is not None else None

    @property
    def broken(self) -> list[FileStatus]:
        broken = [live.broken for live in self._all if live.broken is not None]
        return broken + ([self._waiting] if self._waiting is not None else [])

    def paths(self) -> list[Path]:
        """Return every file that is worth watching, and what an included template would be called."""
        folder = self._template.path.parent
        included = [folder / "*.j2", *_templates_in(folder)]  # these by name, too: they may be links
        return [live.path for live in self._all] + [self._paths.template_fallback, *included]

    def reload(self) -> bool:
        """Read all again; True if what the relay was told at registration has changed."""
        changed = {id(live) for live in self._all if live.reload()}
        for live in self._all:
            if id(live) in changed:
                log.info("%s: the change is in force", live.path)
        self.edition += bool(changed & {id(self._config), id(self._mapping)})
        if id(self._config) in changed:
            self._settle()
            self._tell_what_waits()
        return bool(changed & {id(self._template), id(self._schema), id(self._config)})

    def _tell_what_waits(self) -> None:
        """Name the settings that changed in config.yaml and take effect at the next start only."""
        new, old = self._config.value, self._started_with
        names = [
            n for n in type(new).model_fields if n not in LIVE_SETTINGS and getattr(new, n) != getattr(old, n)
        ]
        if not names:
            self._waiting = None
            return
        text = f"{self._config.path}: {', '.join(names)}: in force from the next start on."
        log.warning("%s", text)
        self._waiting = FileStatus(path=str(self._config.path), error=text, since=time.time())

    # ---- one reader per file ----

    def _text(self, path: Path) -> str:
        return read_trusted(path) if self._privileged else read_own(path)

    def _read_config(self, path: Path) -> EndpointConfig:
        return load_endpoint_config(self._text(path), source=str(path))

    def _read_template(self, path: Path) -> Template:
        if _is_absent(path) and not _is_absent(self._paths.template_fallback):
            path = self._paths.template_fallback  # older stock folders
        includes = {p.name: self._text(p) for p in _templates_in(path.parent) if p != path}
        template = Template(self._text(path), path.name, includes)
        self._parts.check_template(template.text, str(path), template.includes)
        return template

    def _read_schema(self, path: Path) -> dict[str, Any] | None:
        if _is_absent(path):
            return None
        try:
            schema = json.loads(self._text(path))
        except (ValueError, RecursionError) as error:
            raise InputError(Code.SCHEMA_INVALID, f"{path} is not valid JSON: {error}.", step="") from None
        if not isinstance(schema, dict):
            raise InputError(Code.SCHEMA_INVALID, f"{path}: wanted a JSON object.", step="")
        self._parts.check_schema(schema, str(path))
        return schema

    def _read_environment(self, path: Path) -> dict[str, str]:
        if _is_absent(path):
            return {}
        return load_user_environment(self._text(path), source=str(path))

    def _read_mapping(self, path: Path) -> tuple[str, Mapping]:
        if _is_absent(path):
            raise InputError(
                Code.CONFIG_INVALID,
                f"{path} is missing: an endpoint that root starts must say who becomes whom.",
                step="",
            )
        text = self._text(path)
        timeout_s = self._mapping_timeout_s

        def run(argv: Sequence[str], stdin: bytes) -> bytes:
            check_command(argv)
            return run_and_sweep(
                lambda: run_program(argv, stdin, timeout_s=timeout_s), title=f"mep mapping: {argv[0]}"
            )

        mapping = Mapping.parse(text, source=str(path), endpoint_id=self._endpoint_id, run=run)
        for command in mapping.commands:
            check_command(command)
        for warning in mapping.warnings:
            log.warning("%s", warning)
        return text, mapping


def _templates_in(folder: Path) -> list[Path]:
    """Return the templates there, without those whose name begins with a dot: editors make such."""
    return sorted(path for path in folder.glob("*.j2") if not path.name.startswith("."))


def _is_absent(path: Path) -> bool:
    """Tell whether there is no such file; one that cannot be looked at counts as there: reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
