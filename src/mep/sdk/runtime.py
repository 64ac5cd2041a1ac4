"""What a submit tells about the machine it comes from: the endpoint's template may choose by it."""

from __future__ import annotations

import functools
import platform
import struct
import sys
from importlib import metadata
from typing import Any, Final

#: The release of the stock SDK that this one behaves like: services and endpoints decide by it.
STOCK_LEVEL: Final = "4.19.0"


@functools.cache
def user_runtime() -> dict[str, Any]:
    """Return the `user_runtime` of a submit. Computed once; runs no program, as `platform.processor()` would."""
    return {
        "globus_compute_sdk_version": STOCK_LEVEL,
        "globus_sdk_version": _version_of("globus-sdk"),
        "python_version": sys.version,
        "python": {
            "version": platform.python_version(),
            "version_tuple": list(sys.version_info[:3]),
            "version_info": list(sys.version_info),
            "version_description": sys.version,
            "implementation": platform.python_implementation(),
            "compiler": platform.python_compiler(),
        },
        "platform": {
            "architecture": [f"{8 * struct.calcsize('P')}bit", "ELF" if sys.platform == "linux" else ""],
            "machine": platform.machine(),
            "node": platform.node(),
            "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
            "processor": "",
            "release": platform.release(),
        },
    }


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparing; () if there are none."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
