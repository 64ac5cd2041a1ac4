"""Which interpreters the rigs run: ours, and the one that has the stock packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DRIVER = Path(__file__).with_name("sdk_driver.py")
STOCK_DEFAULT = "/var/cache/mep-dev/stock/bin"


def our_python() -> str:
    """Return the interpreter that runs this: it has mep and all it needs."""
    return sys.executable


def our_environment() -> dict[str, str]:
    """Return what makes a child of ours import the same mep as this process does (and what tracing needs)."""
    return {name: os.environ[name] for name in ("PYTHONPATH", "MEP_TRACE_FILE") if os.environ.get(name)}


def mep(*arguments: str | Path) -> list[str]:
    """Return the command line `mep ARGUMENTS`."""
    return [our_python(), "-m", "mep", *map(str, arguments)]


def stock_bin() -> Path:
    """Return the stock packages' folder of programs; MEP_STOCK_BIN names another one."""
    return Path(os.environ.get("MEP_STOCK_BIN", STOCK_DEFAULT))


def why_no_stock() -> str:
    """Return why there are no stock packages to run, or ""."""
    if (stock_bin() / "globus-compute-endpoint").exists():
        return ""
    return f"no stock packages in {stock_bin()}: `./dev env --stock` makes them, MEP_STOCK_BIN says where they are"
