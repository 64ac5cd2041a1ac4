"""The user endpoint's own directory: made and checked, with its log and what tasks print."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from typing import TextIO

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.log import NOISY, LineFormatter, log_only_to, set_level

log = logging.getLogger(__name__)

_LOG_BYTES = 5 * 1024 * 1024
_OUTPUT_BYTES = 10 * 1024 * 1024


class Home:
    """`directory` exists, belongs to the user and can be written."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._output_fd = -1

    def file(self, name: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.directory, name)

    def redirect(self, *, level: int) -> None:
        """Send this process's log, and whatever tasks print, into the directory; stdin becomes empty.

        Until here stderr is the daemon's: from here on nothing of the user's can reach it.
        """
        handler = logging.handlers.RotatingFileHandler(
            self.file("endpoint.log"), maxBytes=_LOG_BYTES, backupCount=2, encoding="utf-8", delay=True
        )
        handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
        log_only_to(handler, level)
        for noisy in NOISY:
            set_level(logging.getLogger(noisy), logging.WARNING)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._output_fd = os.open(self.file("output.log"), flags, 0o600)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(self._output_fd, 1)
        os.dup2(self._output_fd, 2)
        os.close(null)
        # new ones: what the forking process had in its buffers is not ours to write
        sys.stdout, sys.stderr = _line_stream(1), _line_stream(2)
        self.trim_output()

    def trim_output(self) -> None:
        """Empty the file of printed output when it has grown too large: nobody rotates it."""
        if self._output_fd >= 0 and os.fstat(self._output_fd).st_size > _OUTPUT_BYTES:
            os.ftruncate(self._output_fd, 0)
            os.write(self._output_fd, b"(earlier output was dropped: the file had grown too large)\n")


def _line_stream(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def make_home(home: str, state_dir: str, uep_id: str) -> Home:
    """Return the directory of this user endpoint, made if need be.

    HostError: HOME_MISSING, HOME_NOT_WRITABLE, each naming the path.
    """
    if not state_dir:
        if not os.path.isdir(home):
            raise HostError(Code.HOME_MISSING, f"Your home directory {home} does not exist on this host.")
        state_dir = os.path.join(home, ".local", "state", "mep", uep_id)
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        os.chmod(state_dir, 0o700)
        _try_writing(state_dir)
    except OSError as error:
        where = error.filename or state_dir
        raise HostError(
            Code.HOME_NOT_WRITABLE, f"{where} cannot be written on this host: {error.strerror}."
        ) from None
    return Home(state_dir)


def _try_writing(directory: str) -> None:
    """A mode says little on a network file system or over quota: only writing tells."""
    path = os.path.join(directory, ".probe")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"x")
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
        os.unlink(path)


def check_interpreter(path: str) -> None:
    """Raise HostError(INTERPRETER_UNREADABLE) unless the user may execute `path`."""
    if not os.access(path, os.X_OK):
        raise HostError(
            Code.INTERPRETER_UNREADABLE,
            f"The Python interpreter {path} cannot be executed by your account.",
            admin_text=f"uid {os.getuid()} cannot execute {path}: install mep where every user can read it.",
        )
