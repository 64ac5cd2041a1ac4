"""Engine type names and what builds each. Modules are imported when their engine is wanted."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.engines.base import Engine, Surroundings
from mep.engines.worker import environment_details

_BUILDERS: Final[dict[str, str]] = {
    "ThreadPoolEngine": "mep.engines.thread:ThreadPoolEngine",
    "ProcessPoolEngine": "mep.engines.process:ProcessPoolEngine",
    "GlobusComputeEngine": "mep.engines.parsl:GlobusComputeEngine",
    "GlobusMPIEngine": "mep.engines.parsl:GlobusMPIEngine",
}


def build_engine(config: Any, around: Surroundings) -> Engine:
    """Return the engine that `config` (an engine configuration) describes, not started.

    InputError(ENGINE_UNKNOWN, CONFIG_INVALID), HostError(HOME_NOT_WRITABLE) for a working directory.
    """
    attribute = _load(config.type)
    build: Callable[..., Engine] = attribute.from_config
    return build(config, around)


def preload(engine_names: Iterable[str]) -> None:
    """Import what these engines need, so that processes forked from this one share it. Unknown names: ignored."""
    environment_details()
    for name in engine_names:
        if name in _BUILDERS:
            _load(name)


def engine_names() -> tuple[str, ...]:
    """Return the known engine types."""
    return tuple(_BUILDERS)


def _load(kind: str) -> Any:
    where = _BUILDERS.get(kind)
    if where is None:
        near = difflib.get_close_matches(kind, _BUILDERS, n=len(_BUILDERS), cutoff=0.0)
        raise InputError(Code.ENGINE_UNKNOWN, f"Unknown engine type {kind!r}; known are {', '.join(near)}.")
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
