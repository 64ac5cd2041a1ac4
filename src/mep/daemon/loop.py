"""The monitor's event loop: fds, timers, signals. One thread, no hidden ones, nothing polled."""

from __future__ import annotations

import heapq
import itertools
import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping

from mep.base.errors import MepError

log = logging.getLogger(__name__)

READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI | select.EPOLLERR
Callback = Callable[[], None]
_AGAIN_S = 0.5
_MOST_AGAIN_S = 10.0


class Timer:
    """A call in the future; `cancel` it any number of times."""

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    @property
    def cancelled(self) -> bool:
        return self._callback is None


class Loop:
    """Calls back when fds are ready, when time has come, when a signal came. No callback's error stops it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._stopped = False
        self._signals: dict[int, Callback] = {}
        self._wake_in, self._wake_out = socket.socketpair()

    def watch(self, fd: int, callback: Callback, events: int = READ) -> None:
        """Call `callback` whenever `fd` is ready, until `unwatch`."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Forget `fd`, before it is closed. Unknown ones are ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Call `callback` once, in `delay_s` seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def insist(self, call: Callback, what: str, again_s: float = _AGAIN_S) -> None:
        """Call it now, and again later for as long as the kernel refuses: it lacks processes, or descriptors."""
        try:
            call()
        except OSError as error:
            log.error("%s: %s; once more in %g s", what, error, again_s)
            self.call_later(again_s, lambda: self.insist(call, what, min(2 * again_s, _MOST_AGAIN_S)))

    def catch_signals(self, callbacks: Mapping[int, Callback]) -> None:
        """Turn these signals into callbacks. Privilege: be the main thread."""
        for sock in (self._wake_in, self._wake_out):
            sock.settimeout(0.0)
        signal.set_wakeup_fd(self._wake_out.fileno(), warn_on_full_buffer=False)
        for number, callback in callbacks.items():
            self._signals[number] = callback
            signal.signal(number, lambda *_: None)
        self.watch(self._wake_in.fileno(), self._on_signals)

    def stop(self) -> None:
        """Let `run` return after the present callback."""
        self._stopped = True

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopped:
            self.step()

    def step(self, most_s: float | None = None) -> None:
        """Wait for events (at most `most_s`) and serve them once."""
        wait_s = self._next_timer_s()
        if most_s is not None:
            wait_s = most_s if wait_s is None else min(wait_s, most_s)
        for fd, _ in self._epoll.poll(-1 if wait_s is None else wait_s):
            callback = self._callbacks.get(fd)  # an earlier callback of this round may have forgotten it
            if callback is not None:
                _guarded(callback)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _guarded(heapq.heappop(self._timers)[2].run)

    def _next_timer_s(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _on_signals(self) -> None:
        for number in self._wake_in.recv(4096):
            callback = self._signals.get(number)
            if callback is not None:
                callback()


def _guarded(callback: Callback) -> None:
    """One request's failure is not the end of the others: say it, go on. What must fail closed does so itself."""
    try:
        callback()
    except MepError as error:
        log.error("%s", error.for_admin())
    except Exception:
        log.exception("a step failed unexpectedly")
