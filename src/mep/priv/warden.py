"""Running something that may leave processes behind, and leaving none: by a process of its own that outlives them.

The warden is the child-subreaper of all that is started below it, so what daemonises comes back to it and is
killed, however the run ends: by itself, or because whoever waits for it is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

import msgspec
import pyprctl
import setproctitle
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import HostError, MepError
from mep.base.exits import Exit
from mep.priv import clone, session


class _Answer(Struct):
    """What `run` returned, or which error it raised."""

    output: bytes = b""
    code: str = ""
    user_text: str = ""
    admin_text: str = ""


def run_and_sweep(run: Callable[[], bytes], *, title: str) -> bytes:
    """Return what `run` returns, once every process that it started is gone. MepError as it raises.

    HostError(MAPPING_FAILED) if it ends in another way. Privilege: the caller's, which `run` gets as well.
    """
    readable, writable = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        child = clone.spawn(lambda: _be_the_warden(run, parent, writable, title))
    except OSError as error:
        os.close(readable)
        raise _failed(f"no process could be forked: {error}") from None
    finally:
        os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        said = pipe.read()
    ended = clone.reap(child.pidfd, block=True)
    os.close(child.pidfd)
    try:
        answer = msgspec.msgpack.decode(said, type=_Answer)
    except msgspec.DecodeError:
        raise _failed(f"{title}: {ended}") from None
    if answer.code:
        raise HostError(Code(answer.code), answer.user_text, admin_text=answer.admin_text)
    return answer.output


def _be_the_warden(run: Callable[[], bytes], parent: int, writable: int, title: str) -> int:
    """Run, sweep, and only then say what came of it. Privilege: as `run_and_sweep`."""
    signal.signal(signal.SIGTERM, _leave)
    pyprctl.set_pdeathsig(signal.SIGTERM)
    if os.getppid() != parent:
        return Exit.FAILED  # it died before it could be watched
    pyprctl.set_child_subreaper(True)
    setproctitle.setproctitle(title)
    try:
        answer = _Answer(output=run())
    except MepError as error:
        answer = _Answer(code=error.code.value, user_text=error.user_text, admin_text=error.admin_text)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        session.sweep()
    with os.fdopen(writable, "wb") as pipe:
        pipe.write(msgspec.msgpack.encode(answer))
    return Exit.OK


def _leave(*_: object) -> NoReturn:
    raise SystemExit(Exit.FAILED)


def _failed(why: str) -> HostError:
    return HostError(
        Code.MAPPING_FAILED,
        "The endpoint could not find your local account.",
        admin_text=f"Mapping failed: {why}.",
    )
