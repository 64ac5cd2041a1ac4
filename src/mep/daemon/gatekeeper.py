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
from mep.daemon.rate import Rate
from mep.daemon.settings import Endpoint
from mep.priv import clone, fds
from mep.priv.become import Terms, become_user, settle
from mep.wire.privsep import (
    Decision,
    Dismissed,
    MonitorToGate,
    Registered,
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
_FULL_S: Final = 1.0  # until our table of descriptors is looked at again
_IDS_AT_ONCE: Final = 1000  # of user endpoints in one message: 40 KB
#: What it costs to hear the gate, in units of a fresh start command; so much in a row, and so much a second from
#: then on. A gate at work never comes near that: it has 256 commands undecided at most.
BURST: Final = 30_000.0
PER_S: Final = 2000.0
_COSTS: Final[dict[type, float]] = {Start: 1.0, Dismissed: 1.0, Registered: 500.0}
_SELDOM: Final = 50.0  # anything else
#: A start command that no relay has signed, or that was here before, costs so much more.
DUBIOUS: Final = 100.0
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
        cgroup_fd: Callable[[], int | None],
        sweep: Callable[[], None],
    ) -> None:
        """`cgroup_fd`: where the next gate is cloned into. `sweep`: kill all that one left there."""
        self._loop, self._endpoint, self._run_gate = loop, endpoint, run_gate
        self._settings, self._handlers, self._running, self._lost, self._gone = (
            settings,
            handlers,
            running,
            lost,
            gone,
        )
        self._cgroup_fd, self._sweep = cgroup_fd, sweep
        self._channel: GateChannel | None = None
        self._child: clone.Child | None = None
        self._voice: GateVoice | None = None
        self._waiting: deque[tuple[MonitorToGate, int | None]] = deque()
        self._wait_s = _FIRST_WAIT_S
        self._started_at = 0.0
        self._stopping = False
        self._deadline: Timer | None = None
        self._allowance = Rate(burst=BURST, per_s=PER_S)  # of all gates: a crash brings no new one
        self._paused = False  # it is not heard for now
        self._behind = False  # it has to read before we can say more

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
                lambda: self._be_the_gate(settings, theirs, said, parent), cgroup_fd=self._cgroup_fd()
            )
        except (OSError, HostError):
            ours.close()
            os.close(heard)
            raise
        finally:
            theirs.close()
            os.close(said)
        self._voice = GateVoice(self._loop, heard)
        self._channel = GateChannel(ours)
        self._started_at = time.monotonic()
        self._paused = self._behind = False
        self._loop.watch(self._child.pidfd, self._on_exit)
        self._listen()
        kept, self._waiting = self._waiting, deque()
        ids = self._running()
        for first in range(0, max(1, len(ids)), _IDS_AT_ONCE):
            self.say(Running(uep_ids=ids[first : first + _IDS_AT_ONCE]))
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
                self._behind = True
                self._listen()
                return
            except OSError:
                return  # it is ending: its pidfd tells
            except HostError as error:
                log.error("gate: %s is not said: %s", type(message).__name__, error.for_admin())
            self._waiting.popleft()
            if fd is not None:
                os.close(fd)

    def _listen(self) -> None:
        """Wait for what is to be waited for, of the gate that there is."""
        channel = self._channel
        if channel is None:
            return
        if self._behind:
            events = WRITE if self._paused else READ | WRITE
            self._loop.watch(channel.fileno(), self._on_room, events)
        elif self._paused:
            self._loop.unwatch(channel.fileno())
        else:
            self._loop.watch(channel.fileno(), self._on_message)

    def _on_room(self) -> None:
        """The gate was behind with reading; go on when it can take more."""
        self._behind = False
        self._listen()
        self._flush()
        if not self._paused:
            self._on_message()

    def _pause(self, for_s: float) -> None:
        """Hear nothing for a while: more waits in the gate's own socket."""
        channel, self._paused = self._channel, True
        self._listen()

        def go_on() -> None:
            if self._channel is channel:
                self._paused = False
                self._listen()

        self._loop.call_later(for_s, go_on)

    def charge(self, cost: float) -> None:
        """What it has just said costs so much more than other messages."""
        self._allowance.charge(cost)

    def _on_message(self) -> None:
        assert self._channel is not None
        if (wait_s := self._allowance.wait_s()) > 0:
            self._pause(wait_s)
            return
        try:
            got = self._channel.receive()
        except BlockingIOError:
            return
        except OSError as error:
            log.error("gate: it cannot be heard now: %s", error)
            self._pause(_FULL_S)
            return
        except HostError as error:
            log.error("gate: %s; it is killed", error.for_admin())
            self._loop.unwatch(self._channel.fileno())
            self.kill()
            return
        if got is None:
            self._on_closed()
            return
        message, fd = got
        self._allowance.charge(_COSTS.get(type(message), _SELDOM))
        if fd is not None and not isinstance(message, Start):
            os.close(fd)  # nothing else has one; kept, they would fill our table
            fd = None
        self._handlers[type(message)](message, fd)

    def _on_closed(self) -> None:
        """It has closed its socket, as it does when it ends. One that lives on serves nobody: the next will."""
        channel = self._channel
        assert channel is not None
        self._loop.unwatch(channel.fileno())

        def look() -> None:
            if self._channel is channel:
                log.error("gate: it has closed its socket and goes on; it is killed")
                self.kill()

        self._loop.call_later(_GOODBYE_S, look)

    def _on_exit(self) -> None:
        assert self._child is not None
        ended = clone.reap(self._child.pidfd)
        if ended is None:
            return
        try:
            self._sweep()
        except OSError as error:  # before the next gate starts it is tried again
            log.error("gate: what it may have left cannot be killed: %s", error)
        try:
            self._hear_last_words()
        finally:
            self._forget()
            self._go_on_after(ended)

    def _hear_last_words(self) -> None:
        if self._channel is not None:
            self._channel.hang_up()  # somebody may hold the other end: last words are finite
            while self._last_words():
                pass

    def _forget(self) -> None:
        """Let go of all that was the gate's. What takes a process of its own, to close the socket, comes last."""
        assert self._child is not None
        self._loop.unwatch(self._child.pidfd)
        os.close(self._child.pidfd)
        self._child = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._waiting = deque(entry for entry in self._waiting if not self._pointless(entry))
        voice, self._voice = self._voice, None
        if voice is not None:
            voice.close()
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.unwatch(channel.fileno())
            self._loop.insist(channel.close, "gate: its socket cannot be closed")

    def _go_on_after(self, ended: clone.Ended) -> None:
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
        except (OSError, HostError) as error:
            log.error("gate: cannot be started: %s; once more in %.1f s", error, self._wait_s)
            self._start_later()

    def _last_words(self) -> bool:
        """Hear what it said before it ended; start commands among it come again, from the broker."""
        assert self._channel is not None
        try:
            got = self._channel.receive()
        except (OSError, HostError):
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
