"""Why the endpoint could not start or go on: kept for `mep status` until it is up again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mep.base.errors import MepError
from mep.config.paths import EndpointPaths
from mep.daemon.state import make_private_directory, write_private

FILE_NAME: Final = "last-failure"
_MOST_CHARS: Final = 3000


def remember_failure(paths: EndpointPaths, text: str, *, privileged: bool) -> None:
    """Write it down, if the state folder is one to write to: who started the endpoint is told in any case.

    Privilege: write access there.
    """
    try:
        make_private_directory(paths.state_dir, privileged=privileged)
        write_private(_file(paths), text[:_MOST_CHARS])
    except (MepError, OSError):
        pass  # that may be the very failure


def forget_failure(paths: EndpointPaths) -> None:
    """It is up. Privilege: write access there."""
    try:
        _file(paths).unlink(missing_ok=True)
    except OSError:
        pass


def _file(paths: EndpointPaths) -> Path:
    return paths.state_dir / FILE_NAME
