"""Exit codes of every mep command, as documented in the manual page."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Meanings follow sysexits(3) where there is one."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3  # status of a stopped endpoint, as in LSB
    DATA = 65  # a file or an option is wrong
    UNAVAILABLE = 69  # relay refuses, or the endpoint is locked or gone
    SOFTWARE = 70
    TRY_AGAIN = 75  # network or service away
    NO_PERMISSION = 77  # not logged in, not root, untrusted file
    CONFIG = 78
