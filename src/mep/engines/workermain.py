"""A forked worker of ProcessPoolEngine, seen from inside: from the fork to its end."""

from __future__ import annotations

import os
import socket
import struct
import traceback
from typing import NoReturn

import msgspec
import setproctitle

from mep.engines.child import settle_child
from mep.engines.lost import give_way
from mep.engines.worker import Bench, execute, flush_output

CALL_HEAD = struct.Struct("<Q")  # length of the packed call
RESULT_HEAD = struct.Struct("<IQ")  # length of the code, length of the body

encode_call = msgspec.msgpack.Encoder().encode
_decode_call = msgspec.msgpack.Decoder(tuple[str, str, list[str]]).decode


def be_worker(sock: socket.socket, bench: Bench, *, title: str, parent: int) -> NoReturn:
    """Serve calls from `sock` until it ends. Called right after the fork; never returns."""
    status = 1
    try:
        settle_child(parent=parent, keep_fd=sock.fileno())
        give_way()
        sock.settimeout(None)
        setproctitle.setproctitle(title)
        _serve(sock, bench)
        status = 0
    except (ConnectionError, BrokenPipeError):
        status = 0  # the user endpoint is gone
    except BaseException:  # noqa: BLE001 - the last net: what ends a worker is worth a line in the user's log
        traceback.print_exc()
    finally:
        flush_output()
        os._exit(status)


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
