"""The user endpoints of this daemon: one record each, from the fork to the last process's end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mep.base.errors import MepError
from mep.daemon.childchannel import ChildChannel
from mep.daemon.loop import PRIORITY, Loop, Timer
from mep.daemon.wishes import Wishes
from mep.priv import clone
from mep.priv.box import Box
from mep.priv.clone import Child, Ended
from mep.wire.control import UepStatus
from mep.wire.privsep import Failed, MonitorToChild

log = logging.getLogger(__name__)

#: A user endpoint may tell us this many notes in a row, then as many per second: more waits in its own socket.
NOTES_PER_S = 20
_SWEEP_AGAIN_S = 1.0


@dataclass
class Uep:
    """One user endpoint. `state`: mapping -> starting -> running -> stopping -> gone."""

    uep_id: str
    request_id: str
    subject: str
    username: str
    wishes: Wishes
    child: Child
    box: Box
    channel: ChildChannel
    edition: int = 0  # of the rules that its request process has
    state: str = "mapping"
    since: float = field(default_factory=time.time)  # for people
    began: float = field(default_factory=time.monotonic)
    user: str = ""
    uid: int = -1
    gid: int = -1
    pid: int = 0
    rule: str = ""
    deadline: Timer | None = None
    failed: Failed | None = None
    ended: Ended | None = None
    was_ready: bool = False
    quit_asked: bool = False
    stuck: bool = False  # killed, and still there: its end is told, and nobody waits for it any more
    killed_because: MepError | None = None  # why we killed it
    note: str = ""
    tasks_done: int = 0
    tasks_pending: int = 0
    events_fd: int = -1
    allowance: float = float(NOTES_PER_S)
    allowance_at: float = field(default_factory=time.monotonic)

    @property
    def leaving(self) -> bool:
        """Tell whether it is on its way out: it takes no further command."""
        return self.quit_asked or self.killed_because is not None or self.state == "stopping"

    def tell(self, message: MonitorToChild, fd: int | None = None) -> None:
        """Send it a message; one that does not listen misses it."""
        try:
            self.channel.send(message, fd)
        except BlockingIOError:
            log.warning("%s: does not listen; %s is not delivered", self.describe(), type(message).__name__)
        except OSError:
            pass  # it is ending: its pidfd tells

    def status(self) -> UepStatus:
        """Return the row of `mep status`."""
        return UepStatus(
            uep_id=self.uep_id,
            user=self.user,
            uid=self.uid,
            pid=self.pid or self.child.pid,
            state="stuck" if self.stuck else {"mapping": "starting"}.get(self.state, self.state),
            since=self.since,
            identity=self.username or self.subject,
            note=" ".join(self.note.split("\n")),
            tasks_done=self.tasks_done,
            tasks_pending=self.tasks_pending,
        )

    def may_speak(self) -> bool:
        """Count one message against the allowance; False if it is used up for now."""
        now = time.monotonic()
        self.allowance = min(NOTES_PER_S, self.allowance + (now - self.allowance_at) * NOTES_PER_S)
        self.allowance_at = now
        if self.allowance < 1.0:
            return False
        self.allowance -= 1.0
        return True

    def describe(self) -> str:
        """Return what every log line about it begins with."""
        who = f"{self.username or self.subject} as {self.user} uid {self.uid}" if self.user else self.username
        return f"request {self.request_id} uep {self.uep_id} ({who}, pid {self.pid or self.child.pid})"


class Reaper:
    """Sees user endpoints to their end: reap the first process, kill the rest, wait until all are gone."""

    def __init__(self, loop: Loop, *, on_exit: Callable[[Uep], None], on_gone: Callable[[Uep], None]) -> None:
        self._loop = loop
        self._exited, self._all_gone = on_exit, on_gone

    def follow(self, uep: Uep) -> None:
        """Wait for its end. Privilege: none."""
        self._loop.watch(uep.child.pidfd, lambda: self._on_exit(uep))

    def _on_exit(self, uep: Uep) -> None:
        ended = clone.reap(uep.child.pidfd)
        if ended is None:
            return
        uep.ended = uep.box.user_end() or ended
        uep.state = "stopping"
        self._loop.unwatch(uep.child.pidfd)
        self._exited(uep)
        self.sweep(uep)

    def sweep(self, uep: Uep) -> None:
        """Kill what the first process left, and go on when all are gone. Privilege: as the box."""
        try:
            uep.box.kill_all(uep.child)
            if not uep.box.is_empty():
                uep.events_fd = uep.box.open_events()
        except OSError as error:
            log.error("%s: what it left cannot be killed now: %s", uep.describe(), error)
            self._loop.call_later(_SWEEP_AGAIN_S, lambda: self.sweep(uep))
            return
        if uep.events_fd < 0:
            self._gone(uep)
            return
        self._loop.watch(uep.events_fd, lambda: self._maybe_gone(uep), PRIORITY)
        self._maybe_gone(uep)

    def _maybe_gone(self, uep: Uep) -> None:
        if uep.events_fd < 0:
            return
        if b"populated 0" in os.pread(uep.events_fd, 256, 0):  # reading re-arms the notification
            self._loop.unwatch(uep.events_fd)
            os.close(uep.events_fd)
            uep.events_fd = -1
            self._gone(uep)

    def _gone(self, uep: Uep) -> None:
        uep.state = "gone"
        uep.channel.hang_up()  # somebody outside the box may hold the other end: last words are finite
        self._all_gone(uep)
