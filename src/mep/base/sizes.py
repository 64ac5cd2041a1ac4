"""Numbers of bytes, in words."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def size_text(size_bytes: int) -> str:
    """Return 2147483648 as "2 GiB" and 314572800 as "300 MiB"; three digits are enough."""
    for unit, factor in _UNITS:
        if size_bytes >= factor:
            return f"{round(size_bytes / factor, 2):g} {unit}"
    return f"{size_bytes} bytes"


def killed_by_memory(limit_bytes: int | None) -> str:
    """Return why the kernel killed something: at this limit, or, without one, for want of memory elsewhere."""
    if limit_bytes is None:
        return "killed: the machine or the service ran out of memory"
    return f"killed: memory limit {size_text(limit_bytes)}"
