"""Running an endpoint: in the foreground, or detached with the outcome told to who started it."""

from __future__ import annotations

import json
import logging
import os
import select

from daemon import DaemonContext

from mep.base.errors import MepError
from mep.base.exits import Exit
from mep.base.log import setup_logging
from mep.base.secrets import forbid_core_dumps
from mep.daemon.detachedlog import DetachedLog
from mep.daemon.lastfailure import remember_failure
from mep.daemon.lock import EndpointLock
from mep.daemon.monitor import Monitor, OnUp
from mep.daemon.settings import Endpoint, Parts
from mep.priv import clone

log = logging.getLogger(__name__)


def run_here(
    endpoint: Endpoint, parts: Parts, lock: EndpointLock, *, on_up: OnUp, log_file: DetachedLog | None = None
) -> int:
    """Be the endpoint until it is stopped; returns the exit status. MepError if it cannot even begin.

    `log_file`: what stdout and stderr are, to be kept within bounds. Privilege: root for a multi-user endpoint.
    """
    forbid_core_dumps()
    setup_logging(role="monitor", level=logging.DEBUG if endpoint.config.debug else logging.INFO)
    if log_file is not None:
        log_file.attach()
    lock.sign()
    os.umask(0o022)
    return Monitor(endpoint, parts, on_up=on_up).run()


def run_detached(endpoint: Endpoint, parts: Parts, lock: EndpointLock, *, wait_s: float) -> tuple[int, str]:
    """Start the endpoint as a daemon; return (0, "") once it is up, else (exit status, reason).

    If it is not up within `wait_s` it is stopped again. Privilege: as `run_here`.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    child = clone.spawn(lambda: _detach(endpoint, parts, lock, theirs))
    os.close(theirs)
    lock.release()
    clone.reap(child.pidfd, block=True)  # it has forked the daemon and gone
    os.close(child.pidfd)
    try:
        return _outcome(ours, wait_s)
    finally:
        os.close(ours)


def _detach(endpoint: Endpoint, parts: Parts, lock: EndpointLock, tell: int) -> int:
    """The first child: become a daemon (python-daemon forks twice and ends this process), then run."""
    log_file = DetachedLog(endpoint.paths.state_dir / "endpoint.log")
    stream = os.fdopen(log_file.open(), "w", buffering=1)
    keep = [fd for fd in (tell, lock.fd, endpoint.credentials_fd, stream.fileno()) if fd >= 0]
    context = DaemonContext(
        working_directory="/",
        umask=0o022,
        detach_process=True,
        prevent_core=False,  # a hard limit that users would inherit
        files_preserve=keep,
        stdout=stream,
        stderr=stream,
        signal_map={},
    )
    context.open()
    stream.close()  # stdout and stderr are the file now

    def on_up(status: int, text: str) -> None:
        nonlocal tell
        if tell >= 0:
            os.write(tell, json.dumps([status, text[:3000]]).encode())
            os.close(tell)
            tell = -1

    try:
        return run_here(endpoint, parts, lock, on_up=on_up, log_file=log_file)
    except MepError as error:
        log.error("%s", error.for_admin())
        remember_failure(endpoint.paths, error.for_admin(), privileged=endpoint.privileged)
        on_up(Exit.CONFIG if error.code.startswith("CONFIG") else Exit.FAILED, error.for_admin())
        return Exit.FAILED


def _outcome(fd: int, wait_s: float) -> tuple[int, str]:
    """Read what the daemon says; its silence and its end are outcomes too."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    if not poll.poll(wait_s * 1000):
        return Exit.TRY_AGAIN, f"The endpoint is not up after {wait_s:g} s."
    said = os.read(fd, 65536)
    if not said:
        return Exit.SOFTWARE, "The endpoint ended before it was up; see its log."
    status, text = json.loads(said)
    return int(status), str(text)
