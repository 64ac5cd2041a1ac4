"""`spawn: exec`: the user endpoint in an interpreter of its own instead of a fork of the monitor's.

For sites that want another Python for their users, or every user's process in a memory layout of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from typing import NoReturn

from mep.priv.execute import execute
from mep.wire import launch as wire
from mep.wire.launch import Launch


def fresh_interpreter(spawn: str, user_environment: Mapping[str, str]) -> str | None:
    """Return the interpreter to execute, or None where a fork serves. Privilege: the user's, whose PATH is walked.

    user_environment.yaml asks for another interpreter by a PATH on which another `mep` comes first; the Python
    beside it is the one that has it installed.
    """
    ours = os.path.dirname(sys.executable)
    path = user_environment.get("PATH")
    program = shutil.which("mep", path=path) if path else None
    if program is not None and os.path.dirname(program) != ours:
        return os.path.join(os.path.dirname(program), "python3")
    return sys.executable if spawn == "exec" else None


def execute_boot(python: str, launch: Launch, environment: Mapping[str, str]) -> NoReturn:
    """Become the user endpoint in `python`; HostError(INTERPRETER_UNREADABLE) if that cannot be run.

    Privilege: the user's.
    """
    fd = os.memfd_create("launch", os.MFD_CLOEXEC)
    os.write(fd, wire.encode(launch))
    os.lseek(fd, 0, os.SEEK_SET)
    keep = [fd, launch.payload_fd, launch.monitor_fd]
    execute([python, "-m", "mep.endpoint", str(fd)], environment, keep_fds=keep)
