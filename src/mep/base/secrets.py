"""Secrets that cannot print themselves."""

from __future__ import annotations

import hashlib
import hmac
import os
import resource
from typing import Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

_PR_SET_DUMPABLE: Final = 4


class Secret:
    """A text that shows neither in logs, nor in reprs, nor in tracebacks' locals, nor by pickling.

    `reveal()` gives the text, at the one place that needs it; `fingerprint()` names it in a log.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        return self.__text

    def fingerprint(self) -> str:
        """Return 8 hex digits that recognise the secret without giving it away."""
        return hashlib.sha256(self.__text.encode()).hexdigest()[:8]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.__text.encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass it by a file descriptor or reveal it on purpose")


def without_password(url: str) -> str:
    """Return `url` with the password replaced by `***`, for messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def forbid_core_dumps() -> None:
    """Let this process, should it crash, leave nothing with its memory. OSError as the kernel says.

    The limit is for files; where the kernel pipes dumps into a program (systemd-coredump, apport) it does not
    count, so the process is not dumpable either, nor are those forked from it until they say otherwise. A program
    that is started from here is dumpable again, and may raise its limit.
    """
    import ctypes  # not for the SDK, which imports this module too

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
