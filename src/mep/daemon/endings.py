"""Ending user endpoints: first asked to finish, then killed; a session process gets a moment to close."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from mep.base.errors import MepError
from mep.daemon.loop import Loop
from mep.daemon.outcomes import stopping, stuck
from mep.daemon.ueps import Uep
from mep.host.waiting import waits_for_files
from mep.wire.privsep import Quit

log = logging.getLogger(__name__)

_HEARS_WITHIN_S: Final = 12.0
_GONE_WITHIN_S: Final = 5.0  # the kernel needs milliseconds to end a process, unless that waits inside it
_LOOKS: Final = 5  # more, at one that is there and does not wait for a file system
_SESSION_CLOSE_S: Final = 11.0  # a session process gives PAM 10 s to close


class Endings:
    """Sees to it that one ends; that it is gone is the reaper's to see. Privilege: as the box."""

    def __init__(self, loop: Loop, *, grace_s: float, on_stuck: Callable[[Uep], None]) -> None:
        """`on_stuck` hears of one that has been killed and does not go: the kernel waits for a file system."""
        self._loop, self._grace_s, self._on_stuck = loop, grace_s, on_stuck

    def limit(self, uep: Uep, most_s: float, why: Callable[[float], MepError]) -> None:
        """Kill it in `most_s`, because of `why`, unless `no_limit` or another limit comes first."""
        self.no_limit(uep)
        uep.deadline = self._loop.call_later(most_s, lambda: self.kill(uep, why(most_s)))

    def must_hear(self, uep: Uep) -> None:
        """It was told something. Kill it if it has not heard that after a while, because its files hang.

        Whoever waits for a file system takes no tasks and sends no signs of life, so somebody asked for it again.
        """

        def look() -> None:
            if uep.state == "running" and uep.channel.unheard() and waits_for_files(uep.pid or uep.child.pid):
                self.kill(uep, stuck(f"has not listened for {_HEARS_WITHIN_S:g} s, and was stopped"))

        self._loop.call_later(_HEARS_WITHIN_S, look)

    def expect_end(self, uep: Uep) -> None:
        """It has been killed, or its first process has ended: the others are to follow."""

        def look(looks_left: int) -> None:
            if uep.state == "gone" or uep.stuck:
                return
            there = uep.box.pids() or [uep.pid or uep.child.pid]
            if looks_left and not any(map(waits_for_files, there)):
                self._loop.call_later(_GONE_WITHIN_S, lambda: look(looks_left - 1))  # a host with too much work
                return
            uep.stuck, uep.state = True, "stopping"
            self._on_stuck(uep)

        first_s = _GONE_WITHIN_S + (_SESSION_CLOSE_S if uep.box.has_session else 0.0)
        self._loop.call_later(first_s, lambda: look(_LOOKS))

    def no_limit(self, uep: Uep) -> None:
        """It may take its time from now on."""
        if uep.deadline is not None:
            uep.deadline.cancel()
            uep.deadline = None

    def quit(self, uep: Uep) -> None:
        """Ask it to finish; kill it if it has not within the grace period."""
        if uep.leaving:
            return
        uep.quit_asked = True
        self.no_limit(uep)
        if uep.state == "mapping":
            self.kill(uep, stopping())
            return
        uep.state = "stopping" if uep.was_ready else uep.state
        uep.tell(Quit(grace_s=self._grace_s))
        uep.deadline = self._loop.call_later(self._grace_s, lambda: self._overdue(uep))

    def kill(self, uep: Uep, why: MepError) -> None:
        """Kill everybody in its box; the first reason counts."""
        if uep.killed_because is None:
            uep.killed_because = why
        if uep.state == "mapping":
            uep.box.kill_all(uep.child)
            self.expect_end(uep)
        else:
            self._end(uep)

    def _overdue(self, uep: Uep) -> None:
        log.warning("%s: did not finish within %.0f s and is killed", uep.describe(), self._grace_s)
        self._end(uep)

    def _end(self, uep: Uep) -> None:
        """Kill the user's processes; a session process gets a moment to close, if its session was ever open."""
        uep.box.kill()
        self.expect_end(uep)
        if not uep.box.has_session:
            return
        if uep.pid:
            self._loop.call_later(_SESSION_CLOSE_S, lambda: self._end_session(uep))
        else:  # a module that hangs in the opening never hears that it is over
            uep.box.note_scope(uep.child.pid, uep.uid)
            uep.box.kill_all(uep.child)

    def _end_session(self, uep: Uep) -> None:
        if uep.ended is None:
            log.error("%s: its session process does not end and is killed", uep.describe())
            uep.box.kill_all(uep.child)
