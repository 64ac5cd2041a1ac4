"""The names under which stock clients and endpoints know classes and functions of ours.

A pickled instance names its class by import path. Ours travel under the stock path, so that a stock peer can load
them; a stock path that arrives gives our class, so that nothing of the stock package need be installed.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_PACKAGE: Final = "globus_compute_sdk"
_SHELL: Final = "mep.serialize.shell"

#: Stock (module, name) -> our (module, name). Old spellings are read, never written.
_INCOMING: Final[dict[tuple[str, str], tuple[str, str]]] = {
    (f"{_PACKAGE}.sdk.shell_function", "ShellFunction"): (_SHELL, "ShellFunction"),
    (f"{_PACKAGE}.sdk.shell_function", "ShellResult"): (_SHELL, "ShellResult"),
    (f"{_PACKAGE}.sdk.mpi_function", "MPIFunction"): (_SHELL, "MPIFunction"),
    (f"{_PACKAGE}.sdk.bash_function", "BashFunction"): (_SHELL, "BashFunction"),
    (f"{_PACKAGE}.sdk.bash_function", "BashResult"): (_SHELL, "ShellResult"),
    (f"{_PACKAGE}.sdk.hardware_report", "run_hardware_report"): ("mep.serialize.hardware", "hardware_report"),
    (f"{_PACKAGE}.errors.error_types", "MaxResultSizeExceeded"): ("mep.sdk.errors", "MaxResultSizeExceeded"),
    (f"{_PACKAGE}.errors.error_types", "TaskExecutionFailed"): ("mep.sdk.errors", "TaskExecutionFailed"),
    (f"{_PACKAGE}.errors.error_types", "SerializationError"): ("mep.serialize.errors", "SerializationError"),
    (f"{_PACKAGE}.errors.error_types", "DeserializationError"): (
        "mep.serialize.errors",
        "DeserializationError",
    ),
}

#: Our (module, name) -> stock (module, name), for what we write. A BashFunction runs as a ShellFunction.
_OUTGOING: Final[dict[tuple[str, str], tuple[str, str]]] = {
    (_SHELL, "ShellFunction"): (f"{_PACKAGE}.sdk.shell_function", "ShellFunction"),
    (_SHELL, "ShellResult"): (f"{_PACKAGE}.sdk.shell_function", "ShellResult"),
    (_SHELL, "MPIFunction"): (f"{_PACKAGE}.sdk.mpi_function", "MPIFunction"),
    (_SHELL, "BashFunction"): (f"{_PACKAGE}.sdk.shell_function", "ShellFunction"),
    ("mep.serialize.hardware", "hardware_report"): (f"{_PACKAGE}.sdk.hardware_report", "run_hardware_report"),
}


def ours_for(module: str, name: str) -> Any | None:
    """Return our object for a stock name, or None if we have none: then the stock package must be importable."""
    target = _INCOMING.get((module, name))
    return None if target is None else getattr(importlib.import_module(target[0]), target[1])


def stock_name_of(obj: Any) -> tuple[str, str] | None:
    """Return the stock (module, name) under which a class or function of ours travels, or None if it has none."""
    return _OUTGOING.get((obj.__module__, obj.__qualname__))
