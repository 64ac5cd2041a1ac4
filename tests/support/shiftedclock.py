"""Another machine's clock: a folder for PYTHONPATH that shifts what a Python program takes for the time."""

from __future__ import annotations

import os
from pathlib import Path

_SHIFT = """\
import time

_real = time.time
time.time = lambda: _real() + {seconds!r}
"""


def shifted(folder: Path, seconds: float) -> dict[str, str]:
    """Return the environment of a program whose clock is `seconds` ahead; its start-up file goes into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SHIFT.format(seconds=seconds))
    path = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in path)}
