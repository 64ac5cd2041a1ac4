"""Becoming another program: this module runs programs, in place of the process that calls it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.rlimits import no_more_processes
from mep.priv import fds


def execute(argv: Sequence[str], environment: Mapping[str, str], *, keep_fds: Iterable[int] = ()) -> NoReturn:
    """Become `argv`, with `keep_fds` left open; HostError(INTERPRETER_UNREADABLE) names the program and why not.

    HostError(LIMIT_EXCEEDED): the account has more processes than it may, which the kernel says only now.
    Privilege: that of the caller, which the program has as well.
    """
    fds.set_inheritable(keep_fds)
    try:
        os.execve(argv[0], list(argv), dict(environment))  # noqa: S606 - no shell is wanted
    except BlockingIOError:
        raise no_more_processes() from None
    except OSError as error:
        raise HostError(
            Code.INTERPRETER_UNREADABLE, f"{argv[0]} cannot be run: {error.strerror}.", step=""
        ) from None
