"""What an endpoint's folders say about it, for commands that do not talk to its daemon."""

from __future__ import annotations

import errno
import json
import os
import socket

from mep.base.codes import Code
from mep.base.errors import MepError
from mep.base.ids import is_uuid
from mep.cli.files import read_own
from mep.config.paths import EndpointPaths


def read_endpoint_id(paths: EndpointPaths) -> str:
    """Return the id the endpoint is registered under, or "" if it never was (or we may not look).

    HostError(CONFIG_UNTRUSTED) if others than root and the caller could have written it.
    """
    for path in (paths.state_dir / "endpoint.json", paths.endpoint_json):
        try:
            document = json.loads(read_own(path))
        except (ValueError, RecursionError):
            continue
        except MepError as error:
            if error.code is Code.CONFIG_UNTRUSTED:
                raise
            continue
        found = document.get("endpoint_id") if isinstance(document, dict) else None
        if is_uuid(found):
            return str(found)
    return ""


def read_last_failure(paths: EndpointPaths) -> tuple[float, str]:
    """Return when and why the endpoint could not start or go on the last time; (0.0, "") if it could, or we may
    not look."""
    from mep.daemon.lastfailure import FILE_NAME

    path = paths.state_dir / FILE_NAME
    try:
        text = read_own(path)
        return path.stat().st_mtime, " ".join(text.split())
    except (MepError, OSError):
        return 0.0, ""


def is_running(paths: EndpointPaths) -> bool | None:
    """Tell whether a daemon answers at the control socket; None if we may not look."""
    try:
        folder = os.open(paths.control_socket.parent, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return None
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # Through the open folder: a socket's address holds 107 characters, a path may be longer.
            return _connects(probe, f"/proc/self/fd/{folder}/{paths.control_socket.name}")
    finally:
        os.close(folder)


def _connects(probe: socket.socket, address: str) -> bool | None:
    try:
        probe.settimeout(2.0)
        probe.connect(address)
    except PermissionError:
        return None
    except TimeoutError:
        return True
    except OSError as error:
        # Somebody listens, and is busy or speaks another kind of socket.
        return error.errno in (errno.EPROTOTYPE, errno.EAGAIN, errno.ETIMEDOUT)
    return True
