"""A forked worker of ProcessPoolEngine, seen from the user endpoint: one socket, one pidfd, one call at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable

from mep.engines.base import Call, Outcome
from mep.engines.worker import Bench
from mep.engines.workermain import CALL_HEAD, RESULT_HEAD, be_worker, encode_call
from mep.wire.limits import MAX_RESULT_CHARS

_MAX_BODY_BYTES = 7 * MAX_RESULT_CHARS  # a result of control characters only: \u00XX each, and some room
_READ_BYTES = 256 * 1024  # one turn of the loop takes no more of a large result


class WorkerGone(Exception):
    """The worker was dead before the call reached it: the call has not started."""


class WorkerLink:
    """Forks a worker and talks to it. `on_outcome` and `on_death` (exit status) are called on the loop.

    The caller's process must have one thread when it forks: a lock that another thread holds would stay locked
    in the worker for ever.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        title: str,
        on_outcome: Callable[[WorkerLink, Outcome], None],
        on_death: Callable[[WorkerLink, int], None],
    ) -> None:
        self._on_outcome, self._on_death = on_outcome, on_death
        self._loop = asyncio.get_running_loop()
        self.call: Call | None = None
        self.calls_done = 0
        self._outgoing = memoryview(b"")
        self._head = bytearray()
        self._code = ""
        self._body: bytearray | None = None
        self._filled = 0
        assert threading.active_count() == 1, "a process that forks workers has one thread"
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            be_worker(theirs, bench, title=title, parent=parent)
        theirs.close()
        self._pidfd = os.pidfd_open(self.pid)
        ours.settimeout(0.0)
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._readable)
        self._loop.add_reader(self._pidfd, self._died)

    def run(self, call: Call) -> None:
        """Send it a call; it must be idle. WorkerGone: it died meanwhile."""
        packed = encode_call((call.task_id, call.buffer, call.serializers))
        self.call = call
        self._outgoing = memoryview(CALL_HEAD.pack(len(packed)) + packed)
        try:
            sent = self._sock.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.call = None
            raise WorkerGone from None
        self._outgoing = self._outgoing[sent:]
        if self._outgoing:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def dismiss(self) -> None:
        """Let an idle worker go: the end of its socket is its cue."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it, and what it started in its own process group, now. The pid is ours until `on_death`."""
        for target in (self.pid, -self.pid):
            try:
                os.kill(target, signal.SIGKILL)
            except ProcessLookupError:
                pass  # no such group: it died before it made one

    def reap(self) -> None:
        """Wait for a killed worker, at the end of everything; nobody is called."""
        self._forget_fds()
        os.waitpid(self.pid, 0)

    # ---- inside ----

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_writer(self._sock.fileno())
            return  # its death is told by the pidfd
        self._outgoing = self._outgoing[sent:]
        if not self._outgoing:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if not self._read():
            self._loop.remove_reader(self._sock.fileno())  # closed: a death that the pidfd tells, or mischief
            if self.call is not None:
                self.kill()

    def _read(self) -> bool:
        """Take what is there, up to one outcome; False at the end of the socket or of our patience."""
        try:
            if self._body is None:
                return self._read_head()
            view = memoryview(self._body)[self._filled : self._filled + _READ_BYTES]
            count = self._sock.recv_into(view) if view else 0
            if view and count == 0:
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._filled += count
        self._finish_if_complete()
        return True

    def _read_head(self) -> bool:
        """Read the fixed head, then code name and body length are known."""
        wanted = RESULT_HEAD.size - len(self._head) if len(self._head) < RESULT_HEAD.size else 0
        if wanted == 0:
            wanted = RESULT_HEAD.unpack_from(self._head)[0] + RESULT_HEAD.size - len(self._head)
        chunk = self._sock.recv(wanted)
        if not chunk:
            return False
        self._head += chunk
        if len(self._head) < RESULT_HEAD.size:
            return True
        code_length, body_length = RESULT_HEAD.unpack_from(self._head)
        if code_length > 100 or body_length > _MAX_BODY_BYTES or self.call is None:
            return False  # not one of our workers' messages: the user's function wrote to the socket
        if len(self._head) == RESULT_HEAD.size + code_length:
            self._code = self._head[RESULT_HEAD.size :].decode(errors="replace")
            self._body, self._filled = bytearray(body_length), 0
            return self._read()
        return True

    def _finish_if_complete(self) -> None:
        if self._body is None or self._filled < len(self._body) or self.call is None:
            return
        outcome = Outcome(self.call.task_id, bytes(self._body), self._code)
        self.call, self._body, self._code = None, None, ""
        self._head.clear()
        self.calls_done += 1
        self._on_outcome(self, outcome)

    def _died(self) -> None:
        """Its last words may still be in the socket: hear them first."""
        while self.call is not None and self._read_more():
            pass
        self._forget_fds()
        self.kill()  # what the task started in the worker's process group; the group is ours until the wait
        _, raw = os.waitpid(self.pid, 0)
        self._on_death(self, os.waitstatus_to_exitcode(raw))

    def _read_more(self) -> bool:
        before = (len(self._head), self._filled, self._body is None)
        return self._read() and (len(self._head), self._filled, self._body is None) != before

    def _forget_fds(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            os.close(self._pidfd)
            self._sock.close()
            self._pidfd = -1
