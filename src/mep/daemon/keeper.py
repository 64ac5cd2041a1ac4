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
from mep.base.errors import HostError, MepError, RefusedError
from mep.daemon.childchannel import ChildChannel
from mep.daemon.loop import Loop
from mep.daemon.outcomes import forged, how_it_ended, mapping_late, start_late, stopping
from mep.daemon.settings import Endpoint
from mep.daemon.ties import Ties
from mep.daemon.ueps import Reaper, Uep, Wish
from mep.priv.limits import Limits
from mep.wire import privsep
from mep.wire.control import UepStatus
from mep.wire.privsep import Failed, Go, Hold, Lower, Mapped, Note, Quit, Ready, Refresh, Spawned
from mep.wire.taskevents import TaskEvents

log = logging.getLogger(__name__)

RESTART_WITHIN_S: Final = 30.0  # a command for a running user endpoint counts again if that ends so soon
_SESSION_CLOSE_S: Final = 11.0  # a session process gives PAM 10 s to close
_MAPPING_SLACK_S: Final = 0.5  # a mapping program has its own limit; this one is for everything else
_REMEMBERED_COMMANDS: Final = 8


class Keeper:
    """All user endpoints of one endpoint, by their ids."""

    def __init__(self, loop: Loop, endpoint: Endpoint, ties: Ties) -> None:
        self._loop, self._config, self._ties = loop, endpoint.config, ties
        self._grace_s = endpoint.grace_s
        self._ueps: dict[str, Uep] = {}
        self._reaper = Reaper(loop, on_exit=self._on_exit, on_gone=self._on_gone)
        self._recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=1000))
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
        """Obey, or refuse. `seen`: this very command was here before. Never raises. Privilege: to fork."""
        try:
            self._start(wish, seen=seen)
        except MepError as error:
            self._outcomes.refused(wish.request_id, error, wish.claims)
            wish.close()

    def _start(self, wish: Wish, *, seen: bool) -> None:
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
        if seen and wish.claims.jti in present.token_ids:
            # The broker delivers again what a crashed gate had not acknowledged: it is being obeyed.
            self._outcomes.runs_already(wish)
            wish.close()
        elif seen and not (present.waiting and present.waiting.claims.jti == wish.claims.jti):
            raise self._outcomes.refused_before(wish.claims.jti)
        elif present.quit_asked or present.state == "stopping":
            self._replace(present, "waiting", wish)
        else:
            self._refresh(present, wish)

    def _refresh(self, uep: Uep, wish: Wish) -> None:
        """It runs: hand it the newer credentials, and remember the command in case it is just leaving."""
        self._ties.obeyed(wish)
        uep.token_ids.append(wish.claims.jti)
        self._replace(uep, "refreshed", wish)
        if uep.state != "mapping":
            self._send(uep, Refresh(), wish.payload_fd)
        self._outcomes.runs_already(wish)
        self._loop.call_later(RESTART_WITHIN_S, lambda: self._forget(uep, wish))

    def _forget(self, uep: Uep, wish: Wish) -> None:
        if uep.refreshed is wish:
            self._replace(uep, "refreshed", None)

    @staticmethod
    def _replace(uep: Uep, slot: str, wish: Wish | None) -> None:
        old: Wish | None = getattr(uep, slot)
        setattr(uep, slot, wish)
        if old is not None:
            old.close()

    def _fork(self, wish: Wish) -> None:
        """Fork the request process. MepError if that cannot be; then nothing is left of it. Privilege: to fork."""
        if self.stopping:
            raise stopping()
        self._outcomes.check_audit()
        if self.draining:
            check_load([], "", self._ties.rules(), draining=True)
        claims = wish.claims
        box = self._ties.make_box(f"uep-{claims.uep}")
        ours, theirs = privsep.channel_pair()
        try:
            child = self._ties.fork(wish, box, theirs)
        except OSError as error:
            ours.close()
            box.remove()
            raise HostError(
                Code.SPAWN_FAILED, "The endpoint could not start your process.", admin_text=f"fork: {error}"
            ) from None
        finally:
            theirs.close()
        uep = Uep(
            uep_id=claims.uep,
            request_id=wish.request_id,
            subject=claims.sub,
            username=claims.username,
            token_ids=deque([claims.jti], maxlen=_REMEMBERED_COMMANDS),
            child=child,
            box=box,
            channel=ChildChannel(ours),
        )
        uep.command = wish
        self._ueps[uep.uep_id] = uep
        self._reaper.follow(uep)
        self._loop.watch(ours.fileno(), lambda: self._on_message(uep))
        limit_s = self._config.mapping_timeout_s + _MAPPING_SLACK_S
        uep.deadline = self._loop.call_later(limit_s, lambda: self._kill(uep, mapping_late(limit_s)))

    # ---- what a child says ----

    def _on_message(self, uep: Uep) -> None:
        fd = uep.channel.fileno()
        if not uep.may_speak():
            self._loop.unwatch(fd)
            self._loop.call_later(1.0, lambda: self._listen_again(uep))
            return
        if not self._hear(uep):
            self._loop.unwatch(fd)

    def _listen_again(self, uep: Uep) -> None:
        if uep.ended is None:
            self._loop.watch(uep.channel.fileno(), lambda: self._on_message(uep))

    def _hear(self, uep: Uep) -> bool:
        """Take one message; False at the end. What a child may say depends on how far it has come."""
        try:
            got = uep.channel.receive()
        except BlockingIOError:
            return True
        except HostError as error:
            self._kill(uep, forged(error.admin_text))
            return False
        if got is None:
            return False
        message, fd = got
        if fd is not None:
            os.close(fd)
        handler = _HANDLERS.get((uep.state, type(message)))
        if handler is None:
            self._kill(uep, forged(f"said {type(message).__name__} while {uep.state}"))
            return False
        handler(self, uep, message)
        return True

    def _on_mapped(self, uep: Uep, message: Mapped) -> None:
        uep.user, uep.uid, uep.gid, uep.rule = message.user, message.uid, message.gid, message.rule
        now = time.monotonic()
        others = [Running(u.uep_id, u.user) for u in self._ueps.values() if u is not uep and u.user]
        recent = self._recent[message.user]
        try:
            if self.stopping:
                raise stopping()
            rules = self._ties.rules()
            check_load(others, message.user, rules, draining=self.draining, recent_starts=recent, now=now)
            if uep.command is not None:
                self._ties.obeyed(uep.command)
            self._outcomes.write_admission(uep)
        except MepError as refusal:
            self._kill(uep, refusal)
            return
        recent.append(now)
        uep.state = "starting"
        self._send(uep, Go())
        if uep.refreshed is not None:
            self._send(uep, Refresh(), uep.refreshed.payload_fd)
        self._set_deadline(uep, self._config.start_timeout_s)
        command, uep.command = uep.command, None
        if command is not None:
            command.close()
        self._outcomes.admitted(uep)

    def _on_spawned(self, uep: Uep, message: Spawned) -> None:
        if uep.box.has_session and not uep.pid:
            uep.pid = message.pid

    def _on_lower(self, uep: Uep, message: Lower) -> None:
        uep.box.limit(uep.box.limits.lowered(Limits(**msgspec.structs.asdict(message))))

    def _on_ready(self, uep: Uep, _message: Ready) -> None:
        uep.state, uep.was_ready = "running", True
        self._cancel_deadline(uep)
        self._outcomes.ready(uep)

    def _on_failed(self, uep: Uep, message: Failed) -> None:
        uep.failed = message

    def _on_note(self, uep: Uep, message: Note) -> None:
        uep.note = privsep.cap_text(message.state)[:200]
        uep.tasks_done, uep.tasks_pending = message.tasks_done, message.tasks_pending

    def _on_tasks(self, uep: Uep, message: TaskEvents) -> None:
        self._outcomes.tasks(uep, message)

    def _send(self, uep: Uep, message: privsep.MonitorToChild, fd: int | None = None) -> None:
        try:
            uep.channel.send(message, fd)
        except BlockingIOError:
            log.warning("%s: does not listen; %s is not delivered", uep.describe(), type(message).__name__)
        except OSError:
            pass  # it is ending: its pidfd tells

    # ---- ends ----

    def hold(self, why: str) -> None:
        """Let all take no more tasks, because of `why`; "": let them take tasks again."""
        for uep in self._ueps.values():
            if uep.state in ("starting", "running") and not uep.quit_asked:
                self._send(uep, Hold(why=why))

    def stop_all(self) -> None:
        """Ask all to finish, kill who does not within the grace period; `ties.empty` hears when all are gone."""
        self.stopping = True
        for uep in list(self._ueps.values()):
            self._replace(uep, "waiting", None)
            self._quit(uep)
        if not self._ueps:
            self._ties.empty()

    def stop_user(self, user: str) -> int:
        """Ask the user endpoints of one account to finish; return how many there are."""
        theirs = [uep for uep in self._ueps.values() if uep.user == user]
        for uep in theirs:
            self._quit(uep)
        return len(theirs)

    def _quit(self, uep: Uep) -> None:
        if uep.quit_asked or uep.state == "stopping":
            return
        uep.quit_asked = True
        self._cancel_deadline(uep)
        if uep.state == "mapping":
            self._kill(uep, stopping())
            return
        uep.state = "stopping" if uep.was_ready else uep.state
        self._send(uep, Quit(grace_s=self._grace_s))
        uep.deadline = self._loop.call_later(self._grace_s, lambda: self._overdue(uep))

    def _overdue(self, uep: Uep) -> None:
        log.warning("%s: did not finish within %.0f s and is killed", uep.describe(), self._grace_s)
        self._end(uep)

    def _set_deadline(self, uep: Uep, limit_s: float) -> None:
        self._cancel_deadline(uep)
        uep.deadline = self._loop.call_later(limit_s, lambda: self._kill(uep, start_late(limit_s)))

    @staticmethod
    def _cancel_deadline(uep: Uep) -> None:
        if uep.deadline is not None:
            uep.deadline.cancel()
            uep.deadline = None

    def _kill(self, uep: Uep, why: MepError) -> None:
        """Kill everybody in its box; the end is told when all are gone. Privilege: as the box."""
        if uep.killed_because is None:
            uep.killed_because = why
        if uep.state == "mapping":
            uep.box.kill_all(uep.child)
        else:
            self._end(uep)

    def _end(self, uep: Uep) -> None:
        """Kill the user's processes; a session process gets a moment to close. Privilege: as the box."""
        uep.box.kill()
        if uep.box.has_session:
            self._loop.call_later(_SESSION_CLOSE_S, lambda: self._end_session(uep))

    def _end_session(self, uep: Uep) -> None:
        if uep.ended is None:
            log.error("%s: its session process does not end and is killed", uep.describe())
            uep.box.kill_all(uep.child)

    def _on_exit(self, uep: Uep) -> None:
        self._loop.unwatch(uep.channel.fileno())
        self._cancel_deadline(uep)

    def _on_gone(self, uep: Uep) -> None:
        """Its last process is gone: say how it ended, free what it held, obey what came meanwhile."""
        while self._last_words(uep):
            pass
        uep.channel.close()
        ended, admitted = how_it_ended(uep), uep.command is None
        if not uep.box.remove():
            log.error("%s: something could not be killed", uep.describe())
        os.close(uep.child.pidfd)
        del self._ueps[uep.uep_id]
        if admitted:
            self._outcomes.ended(uep, ended)
        else:
            assert ended is not None
            assert uep.command is not None
            self._outcomes.refused(uep.request_id, ended, uep.command.claims)
        self._start_again(uep)
        if not self._ueps:
            self._ties.empty()

    def _last_words(self, uep: Uep) -> bool:
        """Take what it said before it ended, for the reason of its failure."""
        try:
            got = uep.channel.receive()
        except (BlockingIOError, HostError):
            return False
        if got is None:
            return False
        message, fd = got
        if fd is not None:
            os.close(fd)
        told = uep.failed is not None or uep.killed_because is not None
        if isinstance(message, TaskEvents) and uep.command is None:
            self._outcomes.tasks(uep, message)
        elif isinstance(message, Failed) and not told:
            uep.failed = message
        elif isinstance(message, Ready) and not told:
            uep.was_ready = True
        return True

    def _start_again(self, uep: Uep) -> None:
        """Obey the command that came while it was stopping, or just before it left by itself."""
        waiting, uep.waiting = uep.waiting, None
        refreshed, uep.refreshed = uep.refreshed, None
        command, uep.command = uep.command, None
        if command is not None:
            command.close()
        by_itself = uep.ended is not None and uep.ended.clean and uep.was_ready and not uep.quit_asked
        if waiting is None and refreshed is not None and by_itself:
            waiting, refreshed = refreshed, None
        if refreshed is not None:
            refreshed.close()
        if waiting is not None:
            log.info("%s: starts again for request %s", uep.describe(), waiting.request_id)
            self.start(waiting, seen=False)


#: What a child may say, by how far it has come. Anything else ends it.
_HANDLERS: Final[dict[tuple[str, type], Callable[[Keeper, Uep, Any], None]]] = {
    ("mapping", Mapped): Keeper._on_mapped,
    ("mapping", Failed): Keeper._on_failed,
    ("starting", Spawned): Keeper._on_spawned,
    ("starting", Lower): Keeper._on_lower,
    ("starting", Ready): Keeper._on_ready,
    ("starting", Failed): Keeper._on_failed,
    ("starting", Note): Keeper._on_note,
    ("starting", TaskEvents): Keeper._on_tasks,
    ("running", Spawned): Keeper._on_spawned,
    ("running", Failed): Keeper._on_failed,
    ("running", Note): Keeper._on_note,
    ("running", TaskEvents): Keeper._on_tasks,
    ("stopping", Note): Keeper._on_note,
    ("stopping", TaskEvents): Keeper._on_tasks,
    ("stopping", Failed): Keeper._on_failed,
}
