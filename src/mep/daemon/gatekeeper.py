"""The monitor's side of the gate: starts it, hears it, starts it again when it crashes."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import setproctitle

from mep.base.errors import HostError
from mep.base.log import setup_logging_to_pipe
from mep.daemon.gatechannel import GateChannel
from mep.daemon.gatesettings import GateSettings, RunGate
from mep.daemon.gatevoice import GateVoice, make_pipe
from mep.daemon.loop import READ, WRITE, Loop, Timer
from mep.daemon.settings import Endpoint
from mep.priv import clone, fds
from mep.priv.become import Terms, become_user, settle
from mep.wire.privsep import (
    Decision,
    MonitorToGate,
    Running,
    Start,
    Stop,
    UepEvent,
    channel_pair,
)

log = logging.getLogger(__name__)

_FIRST_WAIT_S: Final = 0.1
_MOST_WAIT_S: Final = 10.0
_STABLE_S: Final = 60.0  # a gate that lived so long starts the back-off anew
_MOST_KEPT: Final = 10_000
_GOODBYE_S: Final = 3.0
_SIGTERM: Final = 15
#: What the gate needs to reach the relay through a site's proxies, and nothing else of the daemon's environment.
_PASSED_ON: Final = (
    *("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "TZ"),
    *("GLOBUS_SDK_HTTP_TIMEOUT", "GLOBUS_SDK_VERIFY_SSL", "GLOBUS_COMPUTE_SCOPE"),
)

Handler = Callable[[Any, int | None], None]


class Gatekeeper:
    """Keeps one gate alive. Messages for it wait while it is away; decisions do not, their commands come again."""

    def __init__(
        self,
        loop: Loop,
        endpoint: Endpoint,
        run_gate: RunGate,
        *,
        settings: Callable[[], GateSettings],
        handlers: Mapping[type, Handler],
        running: Callable[[], list[str]],
        lost: Callable[[str], None],
        gone: Callable[[], None],
        cgroup_fd: int | None,
    ) -> None:
        self._loop, self._endpoint, self._run_gate = loop, endpoint, run_gate
        self._settings, self._handlers, self._running, self._lost, self._gone = (
            settings,
            handlers,
            running,
            lost,
            gone,
        )
        self._cgroup_fd = cgroup_fd
        self._channel: GateChannel | None = None
        self._child: clone.Child | None = None
        self._voice: GateVoice | None = None
        self._waiting: deque[tuple[MonitorToGate, int | None]] = deque()
        self._wait_s = _FIRST_WAIT_S
        self._started_at = 0.0
        self._stopping = False
        self._deadline: Timer | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def start(self) -> None:
        """Fork the gate. Privilege: root to become the gate's user; none without root."""
        if self._stopping:
            return
        ours, theirs = channel_pair()
        heard, said = make_pipe()
        settings = self._settings()
        parent = os.getpid()
        try:
            self._child = clone.spawn(
                lambda: self._be_the_gate(settings, theirs, said, parent), cgroup_fd=self._cgroup_fd
            )
        except OSError:
            ours.close()
            os.close(heard)
            raise
        finally:
            theirs.close()
            os.close(said)
        self._voice = GateVoice(self._loop, heard)
        self._channel = GateChannel(ours)
        self._started_at = time.monotonic()
        self._loop.watch(self._child.pidfd, self._on_exit)
        self._loop.watch(ours.fileno(), self._on_message)
        kept, self._waiting = self._waiting, deque()
        self.say(Running(uep_ids=self._running()))
        for message, fd in kept:
            self.say(message, fd)

    def _be_the_gate(self, settings: GateSettings, sock: socket.socket, said: int, parent: int) -> int:
        """The child: give up root, keep only the socket, the credentials and the pipe that the monitor reads.

        Privilege: root, or none.
        """
        fds.say_into(said)
        endpoint = self._endpoint
        setproctitle.setproctitle(f"mep gate: {endpoint.name}")
        user = endpoint.gate_user or endpoint.owner
        terms = Terms(
            parent_pid=parent,
            environment={n: v for n in _PASSED_ON if (v := endpoint.environment.get(n)) is not None},
            keep_fds=[sock.fileno(), settings.credentials_fd],
            keep_streams=True,
            death_signal=_SIGTERM,  # it still has a goodbye to say, see there
            dumpable=False,  # it holds the endpoint's credentials; its account may be shared
        )
        if endpoint.privileged:
            become_user(replace(user, home="/"), terms)
        else:
            settle(replace(user, home="/"), terms)
        setup_logging_to_pipe(level=logging.getLogger().level)
        return self._run_gate(settings, sock.detach())

    def say(self, message: MonitorToGate, fd: int | None = None) -> None:
        """Send it now, or when the gate can take it. The fd is closed once it is sent."""
        self._waiting.append((message, fd))
        if len(self._waiting) > _MOST_KEPT:
            self._drop(self._waiting.popleft())
        self._flush()

    def _flush(self) -> None:
        channel = self._channel
        while channel is not None and self._waiting:
            message, fd = self._waiting[0]
            try:
                channel.send(message, fd)
            except BlockingIOError:
                self._loop.watch(channel.fileno(), self._on_room, READ | WRITE)
                return
            except OSError:
                return  # it is ending: its pidfd tells
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)

    def _on_room(self) -> None:
        """The gate is behind with reading; go on when it can take more."""
        assert self._channel is not None
        self._loop.watch(self._channel.fileno(), self._on_message)
        self._flush()
        self._on_message()

    def _on_message(self) -> None:
        assert self._channel is not None
        try:
            got = self._channel.receive()
        except BlockingIOError:
            return
        except HostError as error:
            log.error("gate: %s; it is killed", error.for_admin())
            self._loop.unwatch(self._channel.fileno())
            self.kill()
            return
        if got is None:
            self._loop.unwatch(self._channel.fileno())
            return
        message, fd = got
        if fd is not None and not isinstance(message, Start):
            os.close(fd)  # nothing else has one; kept, they would fill our table
            fd = None
        self._handlers[type(message)](message, fd)

    def _on_exit(self) -> None:
        assert self._child is not None
        ended = clone.reap(self._child.pidfd)
        if ended is None:
            return
        while self._channel is not None and self._last_words():
            pass
        self._loop.unwatch(self._child.pidfd)
        os.close(self._child.pidfd)
        self._child = None
        if self._voice is not None:
            self._voice.close()
            self._voice = None
        if self._channel is not None:
            self._loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None
        self._waiting = deque(entry for entry in self._waiting if not self._pointless(entry))
        if self._deadline is not None:
            self._deadline.cancel()
        if self._stopping:
            self._gone()
            return
        if time.monotonic() - self._started_at > _STABLE_S:
            self._wait_s = _FIRST_WAIT_S
        log.error("gate: %s; it is started again in %.1f s", ended, self._wait_s)
        self._lost(str(ended))
        self._start_later()

    def _start_later(self) -> None:
        self._loop.call_later(self._wait_s, self.start_again)
        self._wait_s = min(self._wait_s * 2, _MOST_WAIT_S)

    def start_again(self) -> None:
        """As `start`; where the kernel refuses a process now, later. Privilege: as `start`."""
        try:
            self.start()
        except OSError as error:
            log.error("gate: cannot be started: %s; once more in %.1f s", error, self._wait_s)
            self._start_later()

    def _last_words(self) -> bool:
        """Hear what it said before it ended; start commands among it come again, from the broker."""
        assert self._channel is not None
        try:
            got = self._channel.receive()
        except (BlockingIOError, HostError):
            return False
        if got is None:
            return False
        message, fd = got
        if fd is not None:
            os.close(fd)
        else:
            self._handlers[type(message)](message, None)
        return True

    def _pointless(self, entry: tuple[MonitorToGate, int | None]) -> bool:
        """What a new gate will not miss: it asks again, or it is told anew. Ends of user endpoints are kept."""
        if isinstance(entry[0], UepEvent):
            return False
        self._drop(entry)
        return True

    @staticmethod
    def _drop(entry: tuple[MonitorToGate, int | None]) -> None:
        if entry[1] is not None:
            os.close(entry[1])

    def decided(self, decision: Decision) -> None:
        """Tell the gate what became of its command, if it still is the gate that asked."""
        if self._channel is not None:
            self.say(decision)

    def stop(self) -> None:
        """Let it say goodbye to the relay; `gone` hears its end. Killed if that takes too long."""
        self._stopping = True
        if self._child is None:
            self._gone()
            return
        self.say(Stop(goodbye=True))
        self._deadline = self._loop.call_later(_GOODBYE_S, self.kill)

    def kill(self) -> None:
        """End it at once. Privilege: root, or the same user."""
        if self._child is not None:
            clone.kill(self._child.pidfd)
