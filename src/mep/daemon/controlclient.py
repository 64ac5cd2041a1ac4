"""Asking a running endpoint over its control socket."""

from __future__ import annotations

import socket
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.daemon.controlserver import short_path
from mep.wire import control
from mep.wire.control import Reply, Request
from mep.wire.decoding import INVALID

_PATIENCE_S = 10.0


def ask(path: Path, request: Request) -> Reply | None:
    """Return the endpoint's reply, or None if none is running.

    HostError(INTERNAL) if it does not answer. Privilege: root, or the endpoint's owner.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_S)
        try:
            with short_path(path) as short:
                sock.connect(short)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        try:
            sock.sendall(control.encode(request))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
            return control.decode_reply(answer)
        except TimeoutError:
            raise HostError(
                Code.INTERNAL, f"The endpoint does not answer at {path} within {_PATIENCE_S:g} s.", step=""
            ) from None
        except (OSError, *INVALID) as error:
            raise HostError(
                Code.INTERNAL, f"The endpoint's answer at {path} is not understood: {error}.", step=""
            ) from None
