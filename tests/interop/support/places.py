"""Which interpreters the rigs run: ours, and the one that has the stock packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
DRIVER = Path(__file__).with_name("sdk_driver.py")
STOCK_DEFAULT = Path("/var/cache/mep-dev/stock")


def our_python() -> str:
    """Return the interpreter that runs these tests: it has mep and all it needs."""
    return sys.executable


def our_environment() -> dict[str, str]:
    """Return what makes a child of ours import the same mep as this process does."""
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}


def mep(*arguments: str | Path) -> list[str]:
    """Return the command line `mep ARGUMENTS`."""
    return [our_python(), "-m", "mep", *map(str, arguments)]


def stock_venv() -> Path:
    """Return the stock packages' environment; MEP_STOCK_VENV names another one."""
    return Path(os.environ.get("MEP_STOCK_VENV", STOCK_DEFAULT))


def require_stock_venv() -> Path:
    """Return the stock environment, or skip the test saying how to make it (in CI: fail)."""
    venv = stock_venv()
    if (venv / "bin" / "globus-compute-endpoint").exists():
        return venv
    why = f"no stock packages in {venv}: make them with `./dev env --stock`, or set MEP_STOCK_VENV"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
