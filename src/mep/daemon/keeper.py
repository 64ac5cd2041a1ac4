"""Starts, keeps and ends user endpoints: one start command in, one decision out, one end told."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mep.admit.rules import Running, check_load
from mep.base.codes import Code
from mep.base.errors import MepError, RefusedError
from mep.daemon.endings import Endings
from mep.daemon.forking import fork_request
from mep.daemon.hearing import Hearing, last_words
from mep.daemon.loop import Loop
from mep.daemon.outcomes import how_it_ended, mapping_late, rules_changed, start_late, stopping, stuck
from mep.daemon.settings import Endpoint
from mep.daemon.ties import Ties
from mep.daemon.turns import WAIT_S, Turns
from mep.daemon.ueps import Reaper, Uep
from mep.daemon.wishes import Answer, Wish
from mep.host.waiting import waits_for_files
from mep.priv.limits import Limits
from mep.wire import privsep
from mep.wire.control import UepStatus
from mep.wire.privsep import Failed, Go, Hold, Lower, Mapped, Note, Ready, Refresh, Spawned
from mep.wire.taskevents import TaskEvents

log = logging.getLogger(__name__)

RESTART_WITHIN_S: Final = 30.0  # a command for a running user endpoint counts again if that ends so soon
_MAPPING_SLACK_S: Final = 0.5  # a mapping program has its own limit; this one is for everything else


class Keeper:
    """All user endpoints of one endpoint, by their ids."""

    def __init__(self, loop: Loop, endpoint: Endpoint, ties: Ties) -> None:
        self._loop, self._config, self._ties = loop, endpoint.config, ties
        self._ueps: dict[str, Uep] = {}
        self._reaper = Reaper(loop, on_exit=self._on_exit, on_gone=self._on_gone)
        self._endings = Endings(loop, grace_s=endpoint.grace_s, on_stuck=self._on_stuck)
        self._turns = Turns(loop, asking=self._asking, present=self._ueps.__contains__, late=self._waited_too_long)
        self._hearing = Hearing(loop, self._handlers(), break_off=self._endings.kill)
        self._recent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=1000))
        self.draining = False
        self.stopping = False
        self._outcomes = ties.outcomes

    # ---- what is ----

    def statuses(self) -> list[UepStatus]:
        """Return the rows of `mep status`."""
        return [uep.status() for uep in self._ueps.values()]

    def ids(self) -> list[str]:
        """Return the ids of the user endpoints that were admitted and live."""
        return [uep.uep_id for uep in self._ueps.values() if uep.state in ("starting", "running")]

    def __len__(self) -> int:
        return len(self._ueps)

    # ---- a start command ----

    def start(self, wish: Wish, *, seen: bool) -> None:
        """Obey, or refuse, when its turn comes. `seen`: this very command was here before. Never raises.

        Privilege: to fork.
        """
        try:
            if self.stopping or self._turns.comes_now(wish):
                self._start(wish, seen=seen)
            else:
                self._turns.wait(wish, seen=seen)
        except MepError as error:
            self._refuse(wish, error)

    def _refuse(self, wish: Wish, error: MepError) -> None:
        self._outcomes.refused(wish.request_id, error, wish.claims)
        wish.close()

    def _waited_too_long(self, wish: Wish) -> None:
        self._refuse(wish, mapping_late(WAIT_S))

    def _asking(self) -> list[str]:
        """Return the identity of each request process that finds out who somebody is, or did so in vain."""
        ueps = self._ueps.values()
        return [uep.subject for uep in ueps if not uep.wishes.decided or (uep.stuck and not uep.user)]

    def _go_on(self) -> None:
        """There may be room for who waits."""
        while (one := self._turns.following()) is not None:
            try:
                self._start(one.wish, seen=one.seen)
            except MepError as error:
                self._refuse(one.wish, error)

    def _start(self, wish: Wish, *, seen: bool) -> None:
        """Do what `daemon.wishes` says of it. MepError: it is refused, and the caller's to close."""
        present = self._ueps.get(wish.claims.uep)
        if present is None:
            if seen:
                raise self._outcomes.refused_before(wish.claims.jti)
            self._fork(wish)
            return
        if present.subject != wish.claims.sub:
            raise RefusedError(
                Code.COMMAND_MALFORMED,
                "This user endpoint belongs to somebody else.",
                admin_text=f"{wish.claims.username} asked for {wish.claims.uep}, which is {present.username}'s.",
            )
        if present.stuck:
            raise stuck("has not ended")
        match present.wishes.answer(wish, seen=seen, leaving=present.leaving):
            case Answer.REFUSE:
                raise self._outcomes.refused_before(wish.claims.jti)
            case Answer.RUNS:
                self._outcomes.runs_already(wish)
                wish.close()
            case Answer.WAIT:
                overtaken = present.wishes.wait(wish)
                if overtaken is not None:
                    if overtaken.request_id != wish.request_id:  # it is not the same one, delivered again
                        self._outcomes.overtaken(overtaken)
                    overtaken.close()
            case Answer.HAND_OVER:
                self._hand_over(present, wish)

    def _hand_over(self, uep: Uep, wish: Wish) -> None:
        """It runs: give it the newer credentials, and remember the command in case it is just leaving."""
        self._ties.obeyed(wish)
        uep.wishes.hand_over(wish)
        if uep.state != "mapping":
            uep.tell(Refresh(), wish.payload_fd)
            self._endings.must_hear(uep)
        self._outcomes.runs_already(wish)
        self._loop.call_later(RESTART_WITHIN_S, lambda: uep.wishes.forget(wish))

    def _fork(self, wish: Wish) -> None:
        """Fork the request process. MepError if that cannot be; then nothing is left of it. Privilege: to fork."""
        if self.stopping:
            raise stopping()
        self._outcomes.check_audit()
        if self.draining:
            check_load([], "", self._ties.rules(), draining=True)
        uep = fork_request(self._ties, wish)
        self._ueps[uep.uep_id] = uep
        self._reaper.follow(uep)
        self._hearing.listen(uep)
        self._endings.limit(uep, self._config.mapping_timeout_s + _MAPPING_SLACK_S, mapping_late)

    # ---- what it says (daemon.hearing has when it may) ----

    def _handlers(self) -> dict[type, Callable[[Uep, Any], None]]:
        return {
            Mapped: self._on_mapped,
            Spawned: self._on_spawned,
            Lower: self._on_lower,
            Ready: self._on_ready,
            Failed: self._on_failed,
            Note: self._on_note,
            TaskEvents: self._on_tasks,
        }

    def _on_mapped(self, uep: Uep, message: Mapped) -> None:
        uep.user, uep.uid, uep.gid, uep.rule = message.user, message.uid, message.gid, message.rule
        try:
            self._admit(uep)
        except MepError as refusal:
            self._endings.kill(uep, refusal)
            return
        uep.state = "starting"
        uep.tell(Go())
        if uep.wishes.handed_over is not None:
            uep.tell(Refresh(), uep.wishes.handed_over.payload_fd)
        self._endings.limit(
            uep,
            self._config.start_timeout_s,
            lambda limit_s: start_late(limit_s, waits_for_files=waits_for_files(uep.pid or uep.child.pid)),
        )
        uep.wishes.decide()
        self._outcomes.admitted(uep)
        self._go_on()

    def _admit(self, uep: Uep) -> None:
        """Raise MepError unless one more may run for its user; from then on it counts, and is written down."""
        if self.stopping:
            raise stopping()
        if uep.edition != self._ties.edition():
            raise rules_changed()
        now, recent = time.monotonic(), self._recent[uep.uid]
        others = [  # an account may have several names
            Running(u.uep_id, uep.user if u.uid == uep.uid else u.user)
            for u in self._ueps.values()
            if u is not uep and u.user
        ]
        rules = self._ties.rules()
        check_load(others, uep.user, rules, draining=self.draining, recent_starts=recent, now=now)
        if uep.wishes.first is not None:
            self._ties.obeyed(uep.wishes.first)
        self._outcomes.write_admission(uep)
        recent.append(now)

    @staticmethod
    def _on_spawned(uep: Uep, message: Spawned) -> None:
        if uep.box.has_session and not uep.pid:
            uep.pid = message.pid
            uep.box.note_scope(uep.child.pid, uep.uid)

    @staticmethod
    def _on_lower(uep: Uep, message: Lower) -> None:
        try:
            uep.box.limit(uep.box.limits.lowered(Limits(**msgspec.structs.asdict(message))))
        except OSError as error:
            log.error("%s: a limit of its template cannot be set: %s", uep.describe(), error)

    def _on_ready(self, uep: Uep, _message: Ready) -> None:
        uep.was_ready = True
        if uep.leaving:  # what was asked of it before, and by when, holds
            uep.state = "stopping"
            return
        uep.state = "running"
        self._endings.no_limit(uep)
        self._outcomes.ready(uep)

    @staticmethod
    def _on_failed(uep: Uep, message: Failed) -> None:
        uep.failed = message

    @staticmethod
    def _on_note(uep: Uep, message: Note) -> None:
        uep.note = privsep.cap_text(message.state)[:200]
        uep.tasks_done, uep.tasks_pending = message.tasks_done, message.tasks_pending

    def _on_tasks(self, uep: Uep, message: TaskEvents) -> None:
        self._outcomes.tasks(uep, message)

    # ---- ends ----

    def hold(self, why: str) -> None:
        """Let all take no more tasks, because of `why`; "": let them take tasks again."""
        for uep in self._ueps.values():
            if uep.state in ("starting", "running") and not uep.quit_asked:
                uep.tell(Hold(why=why))

    def stop_all(self) -> None:
        """Ask all to finish, kill who does not within the grace period; `ties.empty` hears when all are gone."""
        self.stopping = True
        for one in self._turns.take_all():
            self._refuse(one.wish, stopping())
        for uep in list(self._ueps.values()):
            uep.wishes.drop_later()
            self._endings.quit(uep)
        self._maybe_empty()

    def stop_user(self, user: str) -> int:
        """Ask the user endpoints of one account (a name, or a uid) to finish; return how many there are."""
        uids = {uep.uid for uep in self._ueps.values() if uep.user and user in (uep.user, str(uep.uid))}
        theirs = [uep for uep in self._ueps.values() if uep.uid in uids]
        for uep in theirs:
            self._endings.quit(uep)
        return len(theirs)

    def _on_exit(self, uep: Uep) -> None:
        self._hearing.stop(uep)
        self._endings.no_limit(uep)
        self._endings.expect_end(uep)

    def _on_stuck(self, uep: Uep) -> None:
        """It was killed and does not go. Tell its end now, and let nobody wait for it: that may take days."""
        log.error("%s: killed, and still there: a process waits for a file system", uep.describe())
        if uep.killed_because is None:
            uep.killed_because = stuck("has not ended")
        self._tell_end(uep, uep.killed_because)
        waiting = uep.wishes.take_next(by_itself=False)
        if waiting is not None:
            self._outcomes.refused(waiting.request_id, uep.killed_because, waiting.claims)
            waiting.close()
        self._maybe_empty()

    def _on_gone(self, uep: Uep) -> None:
        """Its last process is gone: say how it ended, free what it held, obey what came meanwhile."""
        for message in last_words(uep):
            self._hear_last(uep, message)
        self._loop.insist(uep.channel.close, "its socket cannot be closed")
        ended = how_it_ended(uep)
        if not uep.box.remove():
            log.error("%s: something could not be killed", uep.describe())
        os.close(uep.child.pidfd)
        del self._ueps[uep.uep_id]
        if uep.stuck:
            log.warning("%s: is gone at last", uep.describe())
        else:
            self._tell_end(uep, ended)
        by_itself = uep.ended is not None and uep.ended.clean and uep.was_ready and not uep.quit_asked
        wish = uep.wishes.take_next(by_itself=by_itself)
        if wish is not None:
            log.info("%s: starts again for request %s", uep.describe(), wish.request_id)
            self.start(wish, seen=False)
        self._go_on()
        self._maybe_empty()

    def _tell_end(self, uep: Uep, ended: MepError | None) -> None:
        if uep.wishes.first is None:
            self._outcomes.ended(uep, ended)
        else:
            assert ended is not None
            self._outcomes.refused(uep.request_id, ended, uep.wishes.first.claims)
            if uep.wishes.newest != uep.request_id:
                self._outcomes.tell_end(uep, "failed", ended)

    def _maybe_empty(self) -> None:
        if all(uep.stuck for uep in self._ueps.values()):
            self._ties.empty()

    def _hear_last(self, uep: Uep, message: Any) -> None:
        """Take what it said before it ended, for the reason of its failure."""
        told = uep.failed is not None or uep.killed_because is not None
        if isinstance(message, TaskEvents) and uep.wishes.decided:
            self._outcomes.tasks(uep, message)
        elif isinstance(message, Failed) and not told:
            uep.failed = message
        elif isinstance(message, Ready) and not told:
            uep.was_ready = True
