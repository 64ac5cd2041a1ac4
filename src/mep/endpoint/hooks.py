"""The template's `endpoint_setup` and `endpoint_teardown`: shell commands around a user endpoint's life."""

from __future__ import annotations

import logging
import subprocess

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.endpoint.home import Home

log = logging.getLogger(__name__)

_SETUP_WITHIN_S = 60.0
_TEARDOWN_WITHIN_S = 10.0
_SHOWN_CHARS = 500


def run_setup(script: str | None, home: Home) -> None:
    """Run `script`; InputError(CONFIG_INVALID) with its last words if it fails. Before any loop or thread."""
    if not script:
        return
    status, output = _run(script, home, _SETUP_WITHIN_S)
    if status != 0:
        raise InputError(
            Code.CONFIG_INVALID,
            f"endpoint_setup failed with status {status}: {output[-_SHOWN_CHARS:].strip() or '(no output)'}",
        )


def run_teardown(script: str | None, home: Home) -> None:
    """Run `script`; a failure is logged, nothing waits for it any more."""
    if not script:
        return
    status, output = _run(script, home, _TEARDOWN_WITHIN_S)
    if status != 0:
        log.error("endpoint_teardown failed with status %s: %s", status, output[-_SHOWN_CHARS:].strip())


def _run(script: str, home: Home, timeout_s: float) -> tuple[int | str, str]:
    try:
        done = subprocess.run(  # noqa: S602 - a shell script is what the setting is
            script,
            shell=True,
            cwd=home.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"timeout after {timeout_s:.0f} s", ""
    except OSError as error:
        return f"{error.strerror}", ""
    return done.returncode, done.stdout.decode(errors="replace")
