"""The relay as a process: log, one process per data directory, the web server."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.log import setup_logging
from mep.base.secrets import forbid_core_dumps
from mep.relay.app import make_app
from mep.relay.auth.keys import Keys
from mep.relay.settings import Settings
from mep.relay.store.engine import create_tables, default_url, open_writer

log = logging.getLogger(__name__)


def run(settings: Settings, *, debug: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests under way, and end."""
    forbid_core_dumps()
    setup_logging(role="relay", level=logging.DEBUG if debug else logging.INFO)
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(settings.data_dir / "relay.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            Code.CONFIG_UNREADABLE, f"Cannot use {settings.data_dir}: {error.strerror}.", step=""
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise HostError(
            Code.ALREADY_RUNNING,
            f"Another relay serves {settings.data_dir}.",
            step="Stop it, or use another --data-dir.",
        ) from None
    _check(settings)
    listening = _listen(settings)
    host, port = listening.getsockname()[:2]
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    config = uvicorn.Config(
        make_app(settings),
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=20,
        server_header=False,
    )
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    server = _Server(config)
    server.run(sockets=[listening])
    if not server.started:
        raise HostError(Code.INTERNAL, "The relay could not start; the log says why.", step="")


def _check(settings: Settings) -> None:
    """Read the keys and the database once, here where a fault becomes one line; the web server would print a
    traceback."""
    Keys(settings.data_dir)
    engine = open_writer(settings.database_url.reveal() or default_url(settings.data_dir))
    try:
        create_tables(engine)
    finally:
        engine.dispose()


class _Server(uvicorn.Server):
    """uvicorn ends by raising the signal again; a relay that was told to stop and did so ends with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise HostError(
            Code.USAGE, f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.", step=""
        ) from None
    listening.listen(1024)
    listening.set_inheritable(False)
    return listening
