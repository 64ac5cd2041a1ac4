"""mep: run Python functions on a site's machines, as yourself.

The names below are loaded when they are first used: a program that imports mep pays for what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mep.sdk.batch import Batch
    from mep.sdk.client import Client
    from mep.sdk.errors import (
        ComputeAPIError,
        DeserializationError,
        MaxResultSizeExceeded,
        SerializationError,
        TaskExecutionFailed,
        TaskPending,
        VersionMismatch,
    )
    from mep.sdk.executor import Executor
    from mep.sdk.futures import ComputeFuture
    from mep.sdk.shell_function import BashFunction, MPIFunction, ShellFunction, ShellResult

__version__ = "0.1.0"

__all__ = [
    "BashFunction",
    "Batch",
    "Client",
    "ComputeAPIError",
    "ComputeFuture",
    "DeserializationError",
    "Executor",
    "MPIFunction",
    "MaxResultSizeExceeded",
    "SerializationError",
    "ShellFunction",
    "ShellResult",
    "TaskExecutionFailed",
    "TaskPending",
    "VersionMismatch",
    "__version__",
]

_ERRORS = (
    "ComputeAPIError",
    "DeserializationError",
    "MaxResultSizeExceeded",
    "SerializationError",
    "TaskExecutionFailed",
    "TaskPending",
    "VersionMismatch",
)
_WHERE = {
    "Batch": "mep.sdk.batch",
    "Client": "mep.sdk.client",
    "Executor": "mep.sdk.executor",
    "ComputeFuture": "mep.sdk.futures",
    **dict.fromkeys(_ERRORS, "mep.sdk.errors"),
    **dict.fromkeys(("BashFunction", "MPIFunction", "ShellFunction", "ShellResult"), "mep.sdk.shell_function"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mep' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
