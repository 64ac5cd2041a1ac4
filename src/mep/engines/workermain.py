"""A forked worker of ProcessPoolEngine, seen from inside: from the fork to its end."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import struct
from typing import NoReturn

import msgspec
import setproctitle

from mep.engines.worker import Bench, execute, flush_output

CALL_HEAD = struct.Struct("<Q")  # length of the packed call
RESULT_HEAD = struct.Struct("<IQ")  # length of the code, length of the body

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

encode_call = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(tuple[str, str, list[str]]).decode


def be_worker(sock: socket.socket, bench: Bench, *, title: str, parent: int) -> NoReturn:
    """Serve calls from `sock` until it ends. Called right after the fork; never returns."""
    status = 1
    try:
        _detach(sock, parent)
        setproctitle.setproctitle(title)
        _serve(sock, bench)
        status = 0
    except (ConnectionError, BrokenPipeError):
        status = 0  # the user endpoint is gone
    finally:
        flush_output()
        os._exit(status)


def _detach(sock: socket.socket, parent: int) -> None:
    """Keep nothing of the user endpoint but the socket, and die with it.

    The process group is its own: a function that signals its group must not hit its neighbours.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it died before the line above
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as every Python process
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    asyncio._set_running_loop(None)  # a function may want a loop of its own
    asyncio.set_event_loop(None)
    logging.basicConfig(handlers=[logging.StreamHandler()], level=logging.WARNING, force=True)
    fd = sock.fileno()
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    sock.settimeout(None)


def _serve(sock: socket.socket, bench: Bench) -> None:
    own_pid = os.getpid()
    while (head := _receive(sock, CALL_HEAD.size)) is not None:
        packed = _receive(sock, CALL_HEAD.unpack(head)[0])
        if packed is None:
            return
        task_id, buffer, serializers = _decode_call(packed)
        del packed
        code, body = execute(buffer, task_id, tuple(serializers), bench)
        del buffer
        if os.getpid() != own_pid:
            os._exit(0)  # the function forked and its child came back here: this is not a worker
        flush_output()
        name = code.encode()
        sock.sendall(RESULT_HEAD.pack(len(name), len(body)) + name)
        sock.sendall(body)
        del body


def _receive(sock: socket.socket, length: int) -> bytearray | None:
    """Return exactly `length` bytes, None at the end."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return data
