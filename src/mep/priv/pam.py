"""PAM, through libpam itself: account, credentials and session of a user whose login was decided elsewhere.

Nobody is asked for a password: the identity was proved to the relay. A module that prompts gets PAM_CONV_ERR, so
a stack that wants a password refuses instead of hanging. The calls may change the calling process (limits,
keyrings, groups), load any module and block: they belong into the session process, never into the monitor.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from typing import Any, Final

from mep.base.codes import Code
from mep.base.errors import HostError, RefusedError

_SUCCESS: Final = 0
_CONV_ERR: Final = 19
_TEXT_STYLES: Final = {3: "error", 4: "info"}  # PAM_ERROR_MSG, PAM_TEXT_INFO
_ESTABLISH_CRED: Final = 0x2
_DELETE_CRED: Final = 0x4
_SILENT: Final = 0x8000
_MAX_MESSAGE_CHARS: Final = 300


class _Message(ctypes.Structure):
    _fields_ = [("style", c_int), ("text", c_char_p)]


class _Response(ctypes.Structure):
    _fields_ = [("text", c_void_p), ("retcode", c_int)]


_CONVERSE = ctypes.CFUNCTYPE(c_int, c_int, POINTER(POINTER(_Message)), POINTER(POINTER(_Response)), c_void_p)


class _Conversation(ctypes.Structure):
    _fields_ = [("converse", _CONVERSE), ("data", c_void_p)]


class Pam:
    """One PAM transaction: `open` for a user, `close` when their process is gone. Privilege: root throughout."""

    def __init__(self, service: str, user: str, *, confdir: str | None = None) -> None:
        """`confdir`: where to look for the service file instead of /etc/pam.d (libpam >= 1.4).

        HostError(SPAWN_FAILED) without libpam; RefusedError(PAM_REFUSED) if there is no such service.
        """
        self._service, self._user = service, user
        self._said: list[str] = []
        self._opened: list[str] = []
        self._handle = c_void_p()
        self._libpam = _load()
        libc = ctypes.CDLL(None)
        libc.calloc.restype = c_void_p
        self._calloc = libc.calloc
        # kept: libpam calls it for as long as the handle lives
        self._conversation = _Conversation(_CONVERSE(self._answer), None)
        if confdir is None:
            _need_service("/etc/pam.d", service)
            code = self._libpam.pam_start(
                service.encode(), user.encode(), byref(self._conversation), byref(self._handle)
            )
        else:
            _need_service(confdir, service)
            code = self._libpam.pam_start_confdir(
                service.encode(), user.encode(), byref(self._conversation), confdir.encode(), byref(self._handle)
            )
        if code != _SUCCESS:
            raise self._refused("start", code)

    def open(self) -> dict[str, str]:
        """Check the account, establish credentials, open the session; return the environment that modules set.

        The caller has set the supplementary groups. RefusedError(PAM_REFUSED): what was open is closed.
        """
        try:
            self._call("acct_mgmt", _SILENT)
            self._call("setcred", _ESTABLISH_CRED | _SILENT)
            self._opened.append("credentials")
            self._call("open_session", _SILENT)
            self._opened.append("session")
        except RefusedError:
            self.close()
            raise
        return self._environment()

    def close(self) -> list[str]:
        """Close what is open, in reverse; return what failed on the way. Safe to call twice."""
        failed = []
        while self._opened:
            if self._opened.pop() == "session":
                code = self._libpam.pam_close_session(self._handle, _SILENT)
            else:
                code = self._libpam.pam_setcred(self._handle, _DELETE_CRED | _SILENT)
            if code != _SUCCESS:
                failed.append(self._text(code))
        if self._handle.value:
            self._libpam.pam_end(self._handle, _SUCCESS)
            self._handle = c_void_p()
        return failed

    def _call(self, name: str, flags: int) -> None:
        code = getattr(self._libpam, f"pam_{name}")(self._handle, flags)
        if code != _SUCCESS:
            raise self._refused(name, code)

    def _refused(self, step: str, code: int) -> RefusedError:
        said = f" ({'; '.join(self._said)[:_MAX_MESSAGE_CHARS]})" if self._said else ""
        return RefusedError(
            Code.PAM_REFUSED,
            "This endpoint's host does not accept your account at present.",
            admin_text=f"PAM service {self._service!r} refused {self._user} at pam_{step}: "
            f"{self._text(code)} [{code}]{said}.",
        )

    def _text(self, code: int) -> str:
        text: bytes | None = self._libpam.pam_strerror(self._handle, code)
        return text.decode(errors="replace") if text else "unknown error"

    def _environment(self) -> dict[str, str]:
        entries = self._libpam.pam_getenvlist(self._handle)
        environment: dict[str, str] = {}
        index = 0
        while entries and entries[index]:
            name, _, value = entries[index].decode(errors="replace").partition("=")
            environment[name] = value
            index += 1
        return environment  # the list leaks a few bytes: this process handles one user and ends

    def _answer(self, count: int, messages: Any, responses: Any, _data: Any) -> int:
        """Collect what modules say; answer no question."""
        for index in range(count):
            message = messages[index].contents
            if message.style not in _TEXT_STYLES:
                return _CONV_ERR
            self._said.append((message.text or b"").decode(errors="replace"))
        # libpam frees the answers: they must come from the C library's own allocator
        address = self._calloc(ctypes.c_size_t(count), ctypes.c_size_t(ctypes.sizeof(_Response)))
        if not address:
            return _CONV_ERR
        responses[0] = ctypes.cast(address, POINTER(_Response))
        return _SUCCESS


def _need_service(directory: str, service: str) -> None:
    """Refuse a service without a file of its own: libpam would silently use `other`. Privilege: none."""
    if "/" in service or service in ("", ".", "..") or not os.path.exists(os.path.join(directory, service)):
        raise RefusedError(
            Code.PAM_REFUSED,
            "This endpoint's host does not accept your account at present.",
            admin_text=f"There is no PAM service {service!r} in {directory}.",
        )


def _load() -> ctypes.CDLL:
    try:
        libpam = ctypes.CDLL("libpam.so.0")
    except OSError as error:
        raise HostError(
            Code.SPAWN_FAILED,
            "The endpoint could not start your process.",
            admin_text=f"PAM is enabled, but libpam cannot be loaded: {error}.",
        ) from None
    libpam.pam_start.argtypes = [c_char_p, c_char_p, POINTER(_Conversation), POINTER(c_void_p)]
    libpam.pam_start_confdir.argtypes = [c_char_p, c_char_p, POINTER(_Conversation), c_char_p, POINTER(c_void_p)]
    for name in ("acct_mgmt", "setcred", "open_session", "close_session", "end"):
        getattr(libpam, f"pam_{name}").argtypes = [c_void_p, c_int]
    libpam.pam_strerror.argtypes = [c_void_p, c_int]
    libpam.pam_strerror.restype = c_char_p
    libpam.pam_getenvlist.argtypes = [c_void_p]
    libpam.pam_getenvlist.restype = POINTER(c_char_p)
    return libpam
