"""What came of each request and each user endpoint: told to the gate, the log, the audit log and `mep status`."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from mep.base.codes import Code
from mep.base.errors import HostError, MepError, RefusedError
from mep.daemon.allowance import Allowance
from mep.daemon.audit import AuditLog
from mep.daemon.tasklog import TaskLog
from mep.daemon.ueps import Uep
from mep.daemon.wishes import Wish
from mep.wire.privsep import Decision, Dismissed, Failed, UepEvent, cap_text
from mep.wire.signing import StartClaims
from mep.wire.taskevents import TaskEvents

log = logging.getLogger(__name__)

_REMEMBERED_REFUSALS: Final = 256
_SHOWN_REFUSALS: Final = 20


class Outcomes:
    """One line each: `decided` and `happened` reach the gate; the rest is told here."""

    def __init__(
        self,
        *,
        decided: Callable[[Decision], None],
        happened: Callable[[UepEvent], None],
        audit: AuditLog,
        task_log: TaskLog,
        later: Callable[[float, Callable[[], None]], Any] = lambda _delay_s, _callback: None,
    ) -> None:
        self._decided, self._happened, self._audit, self._tasks = decided, happened, audit, task_log
        self._allowance = Allowance(later=later, count=self._count)
        self._refused: dict[
            str, MepError
        ] = {}  # by command: said again if the gate crashed before it was passed on
        self._limits_met: dict[str, str] = {}  # by user endpoint: what the next one says of the tasks that ran
        self.shown: deque[dict[str, str]] = deque(maxlen=_SHOWN_REFUSALS)

    def check_audit(self) -> None:
        """Raise RefusedError(AUDIT_UNWRITABLE) if what would happen now could not be written down."""
        if self._audit_trouble():
            raise self._unwritable()

    def problems(self) -> list[str]:
        """Return what keeps every start from being obeyed at present, for `mep status`."""
        trouble = self._audit_trouble()
        return [f"{Code.AUDIT_UNWRITABLE.value}: {trouble}"] if trouble else []

    def _unwritable(self) -> RefusedError:
        text = "This endpoint takes no work at present."
        return RefusedError(Code.AUDIT_UNWRITABLE, text, admin_text=self._audit_trouble())

    def _audit_trouble(self) -> str:
        if not self._audit.check():
            return f"The audit log {self._audit.path} cannot be written: {self._audit.why}."
        why = self._tasks.check()
        return f"The audit log of tasks cannot be written: {why}." if why else ""

    def refused(self, request_id: str, error: MepError, claims: StartClaims | None) -> None:
        """A command is not obeyed. `claims`: None where they are not to be believed."""
        who = claims.username or claims.sub if claims is not None else "not verified"
        if claims is not None:
            self._refused[claims.jti] = error
            if len(self._refused) > _REMEMBERED_REFUSALS:
                del self._refused[next(iter(self._refused))]
        identity = claims.sub if claims is not None else ""
        if self._allowance.take("start-refused", identity, error.code.value):
            log.warning("request %s (%s): refused: %s", request_id, who, error.for_admin())
            self._audit.write(
                "start-refused",
                request_id=request_id,
                identity=identity,
                username=who,
                uep=claims.uep if claims is not None else "",
                code=error.code.value,
                why=error.admin_text,
            )
            self._show(request_id, error, who)
        self._decided(
            Decision(request_id=request_id, verdict="refused", code=error.code.value, user_text=user_text(error))
        )

    def _count(self, event: str, identity: str, codes: dict[str, int]) -> None:
        """So many more lines there would have been."""
        count = sum(codes.values())
        told = ", ".join(f"{code} {number} times" for code, number in codes.items() if code)
        log.warning("%s: %d more of %s%s", event, count, identity or "not verified", f": {told}" if told else "")
        self._audit.write(f"{event}-more", identity=identity, count=count, codes=codes)

    def dismissed(self, message: Dismissed) -> None:
        """The gate has refused a command, unverified, and has logged it: `mep status` shows it, too."""
        try:
            code = Code(message.code)
        except ValueError:
            code = Code.COMMAND_MALFORMED
        error = RefusedError(code, "The endpoint refused a start command.", admin_text=cap_text(message.text))
        self._show(message.request_id[:100], error, "not verified")

    def refused_before(self, token_id: str) -> MepError:
        """Return the refusal of a command that comes again: the one it got, or that it is old."""
        return self._refused.get(token_id) or RefusedError(
            Code.COMMAND_REPLAYED, "This start command was obeyed before."
        )

    def write_admission(self, uep: Uep) -> None:
        """Write down that it is about to become its user; RefusedError(AUDIT_UNWRITABLE): it may not."""
        if not self._audit.write("start-admitted", **_facts(uep), rule=uep.rule):
            raise self._unwritable()

    def admitted(self, uep: Uep) -> None:
        """A user endpoint is about to become its user."""
        log.info("%s: admitted by %s", uep.describe(), uep.rule)
        self._decided(Decision(request_id=uep.request_id, verdict="started"))

    def runs_already(self, wish: Wish) -> None:
        """The command is for a user endpoint that lives: it has the newer credentials now."""
        if self._allowance.take("start-refreshed", wish.claims.sub):
            self._audit.write(
                "start-refreshed",
                request_id=wish.request_id,
                identity=wish.claims.sub,
                username=wish.claims.username,
                uep=wish.claims.uep,
            )
        self._decided(Decision(request_id=wish.request_id, verdict="running"))

    def overtaken(self, wish: Wish) -> None:
        """The command waited for a user endpoint to leave, and a newer one will start the next."""
        log.info("request %s (%s): a newer one takes its place", wish.request_id, wish.claims.username)
        self._decided(Decision(request_id=wish.request_id, verdict="running"))

    def ready(self, uep: Uep) -> None:
        """It takes tasks."""
        log.info("%s: ready after %.0f ms", uep.describe(), 1000 * (time.monotonic() - uep.began))
        self._audit.write("uep-ready", **_facts(uep))
        self._happened(UepEvent(uep_id=uep.uep_id, request_id=uep.request_id, event="ready"))

    def tasks(self, uep: Uep, message: TaskEvents) -> None:
        """It told how far its tasks are."""
        self._tasks.write(_facts(uep), message)

    def stop(self) -> None:
        """The daemon ends."""
        self._allowance.end_window()
        self._tasks.stop()

    def ended(self, uep: Uep, error: MepError | None) -> None:
        """Its last process is gone; `error` None: as it should be."""
        event = "ended" if uep.was_ready else "failed"
        if error is None:
            log.info("%s: ended", uep.describe())
        else:
            log.warning("%s: %s: %s", uep.describe(), event, error.for_admin())
            self._show(uep.request_id, error, uep.username)
            if error.code is Code.LIMIT_EXCEEDED:
                self._limits_met[uep.uep_id] = error.user_text
                if len(self._limits_met) > _REMEMBERED_REFUSALS:
                    del self._limits_met[next(iter(self._limits_met))]
        code = error.code.value if error else ""
        self._audit.write(
            f"uep-{event}",
            **_facts(uep),
            code=code,
            why=error.admin_text if error else "",
            tasks_done=uep.tasks_done,
            seconds=round(time.monotonic() - uep.began, 3),
        )
        self._tasks.close(uep.uid)
        self.tell_end(uep, event, error)

    def tell_end(self, uep: Uep, event: str, error: MepError | None) -> None:
        """Tell of an end as the answer to the newest command that counted on it: the relay ignores older ones."""
        self._happened(
            UepEvent(
                uep_id=uep.uep_id,
                request_id=uep.wishes.newest,
                event=event,
                code=error.code.value if error else "",
                user_text=user_text(error) if error else "",
            )
        )

    def take_limit_met(self, uep_id: str) -> str:
        """Return which limit ended this user endpoint the last time, once; "" if none did."""
        return self._limits_met.pop(uep_id, "")

    def _show(self, request_id: str, error: MepError, who: str) -> None:
        self.shown.append(
            {
                "at": f"{time.time():.0f}",
                "request_id": request_id,
                "identity": who,
                "code": error.code.value,
                "text": " ".join(error.admin_text.split("\n")),  # one line: `mep status` shows it as such
            }
        )


def user_text(error: MepError) -> str:
    """Return what the user is told beside the code: what happened, and the next step."""
    return cap_text(error.user_text + (f" {error.step}" if error.step else ""))


def _facts(uep: Uep) -> dict[str, str | int]:
    return {
        "request_id": uep.request_id,
        "identity": uep.subject,
        "username": uep.username,
        "user": uep.user,
        "uid": uep.uid,
        "pid": uep.pid or uep.child.pid,
        "uep": uep.uep_id,
    }


def how_it_ended(uep: Uep) -> MepError | None:
    """Return why it failed or died; None where it ended by itself and well, or was asked to.

    Called once its last process is gone, before its box is given back.
    """
    if uep.killed_because is not None:
        return uep.killed_because
    if uep.failed is not None:
        return _as_told(uep.failed)
    ended = uep.ended
    assert ended is not None
    if uep.was_ready and (ended.clean or uep.quit_asked):
        return None
    if ended.signal == signal.SIGKILL and (why := uep.box.killed_by_memory()):
        return HostError(Code.LIMIT_EXCEEDED, f"Your user endpoint was {why}.")
    when = "" if uep.was_ready else " while it started"
    return HostError(Code.UEP_DIED, f"Your user endpoint ended{when}: {ended}.")


def _as_told(failed: Failed) -> MepError:
    """Its own words: it may be the user's process by now, so the code is checked and the texts are only shown."""
    try:
        code = Code(failed.code)
    except ValueError:
        code = Code.UEP_DIED
    return HostError(code, cap_text(failed.user_text), admin_text=cap_text(failed.admin_text), step="")


def mapping_late(limit_s: float) -> MepError:
    """Finding out who somebody is took too long."""
    return RefusedError(
        Code.MAPPING_TIMEOUT,
        "The endpoint took too long to find your local account.",
        admin_text=f"Finding the account took more than {limit_s:g} s.",
    )


def rules_changed() -> MepError:
    """Its account was judged by rules that no longer hold; the relay sends a fresh command for this code."""
    return RefusedError(
        Code.COMMAND_STALE,
        "The endpoint's rules changed while your start was being decided.",
        admin_text="config.yaml or the mapping changed while the account was being found.",
        step="Submit again.",
    )


def start_late(limit_s: float, *, waits_for_files: bool = False) -> MepError:
    """A user endpoint was admitted, and did not become ready."""
    what = f"Your user endpoint was not ready within {limit_s:g} s, and was stopped."
    why = " It was waiting for a file system that does not answer (your home directory?)."
    return HostError(Code.START_TIMEOUT, what + why * waits_for_files)


def stuck(what: str) -> MepError:
    """A process of the user's waits in the kernel, where nothing ends it. `what` it did not do."""
    return HostError(
        Code.PROCESS_STUCK,
        f"Your user endpoint {what}: a process of it waits for a file system that does not answer.",
    )


def forged(what: str) -> MepError:
    """A user endpoint said what it may not say."""
    return HostError(
        Code.UEP_DIED,
        "Your user endpoint was stopped because it broke the endpoint's rules.",
        admin_text=f"A user endpoint {what}; it is killed.",
    )


def stopping() -> MepError:
    """Nothing is started any more."""
    return RefusedError(Code.ENDPOINT_STOPPING, "This endpoint is stopping.")
