"""What signs of life, and their absence, mean for the fleet (protocol: status reports, liveness, restart)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.ids import is_uuid
from mep.relay.amqp import Incoming, RelayBroker
from mep.relay.endings import Endings
from mep.relay.fleet import STARTING, STOPPED, UP, Core, Fleet, Uep
from mep.relay.opening import Opening
from mep.relay.ratelimit import RateLimit
from mep.relay.starts import Starts
from mep.relay.store import endpoints, ueps
from mep.wire import envelope
from mep.wire.envelope import StatusReport
from mep.wire.limits import MAX_REPORT_BYTES

log = logging.getLogger(__name__)

_MAX_TEXT_CHARS = 16_384  # of a failed start: each waiting task gets it
_MAX_PERIOD_S = 86_400.0
_REPORTS_PER_S = 5.0  # per user endpoint
_AGAIN_S = 0.3  # before a user endpoint that ended with work left is started again; doubles with each try
_CHECK_EVERY_S = 1.0  # whether somebody consumes, as long as tasks are submitted
_CHECK_AGAIN_S = 1.5  # a consumer that is missing may be reconnecting


class Liveness:
    """Turns reports and silence into changes of state."""

    def __init__(
        self, fleet: Fleet, starts: Starts, endings: Endings, broker: RelayBroker, opening: Opening
    ) -> None:
        self._fleet, self._starts, self._endings, self._broker = fleet, starts, endings, broker
        self._opening = opening
        self._limit = RateLimit(_REPORTS_PER_S, burst_s=10.0)
        self._late: dict[str, tuple[str, StatusReport]] = {}  # of too many about one the newest

    async def on_batch(self, batch: list[Incoming]) -> None:
        """Handle what the heartbeats queue delivered."""
        for arrived in batch:
            message = await self._opening.report(arrived)
            if message is None:
                continue
            if len(message.body) > MAX_REPORT_BYTES:
                log.warning("dropped a report of %s: %d bytes", message.sender, len(message.body))
                continue
            try:
                report = envelope.decode(message.body)
            except InputError as error:
                log.warning("dropped a message of %s on the heartbeats queue: %s", message.sender, error.user_text)
                continue
            if isinstance(report, StatusReport):
                self.on_report(message.sender, report)
            else:
                log.warning("dropped a message of %s on the heartbeats queue: not a report", message.sender)

    def on_report(self, sender: str, report: StatusReport) -> None:
        """One report. `sender` is vouched for by the broker: an endpoint may speak for its user endpoints, anybody
        else only for itself."""
        about, facts = report.endpoint_id, report.global_state
        core = self._fleet.cores.get(sender)
        if core is not None and about == sender:
            self._core_report(core, facts)
            return
        if (core is None and about != sender) or not is_uuid(about):
            log.warning("report of %s about %.40s ignored: not its own", sender, about)
            return
        # nobody needs to report this often; each report costs a look at the queue, or a line of log
        if wait_s := self._limit.wait_s(about):
            if about not in self._late:
                asyncio.get_running_loop().call_later(wait_s, self._hear_late, about)
            self._late[about] = sender, report
            return
        self._late.pop(about, None)  # this one is newer
        uep = self._fleet.ueps.get(about)
        if uep is None:
            self._fleet.spawn(self._recall(sender, report), name=f"recall {about}")
        elif sender not in (uep.id, uep.core.id):
            log.warning("report of %s about %s ignored: not its own", sender, about)
        elif facts.get("error") is not None and not facts.get("active"):
            self._start_failed(uep, facts)
        elif facts.get("active") is False:
            self._ended(uep, facts.get("ended"))
        elif sender == uep.id:
            self._alive(uep, facts)

    def _hear_late(self, about: str) -> None:
        if about in self._late:
            self.on_report(*self._late.pop(about))

    def resume(self) -> None:
        """After a start of the relay: watch everybody, and restart what owes tasks."""
        for core in self._fleet.cores.values():
            if core.online:
                self._fleet.arm(core, self._fleet.silence_s(core), self._core_silent)
        for uep in list(self._fleet.ueps.values()):
            if uep.state == UP:
                self._fleet.arm(uep, self._fleet.silence_s(uep), self._silent)
                if uep.open:  # the relay before us may have been about to look
                    self._fleet.spawn(self._look(uep), name=f"look at {uep.id}")
            elif uep.open:
                self._again(uep, 2.0)  # its results may still be in the queue: let them arrive first

    async def _recall(self, sender: str, report: StatusReport) -> None:
        """A report about one that this process has not met: it may have been stopped when we started."""
        about = report.endpoint_id
        record = await self._fleet.store.read(lambda c: ueps.find(c, about))
        core = self._fleet.cores.get(record.endpoint_id) if record is not None else None
        if record is None or core is None:
            log.info("report of %s about %.40s ignored: not known here", sender, about)
        else:
            self._fleet.adopt(record, core)
            self.on_report(sender, report)

    # ---- endpoints ----

    def _core_report(self, core: Core, facts: dict[str, Any]) -> None:
        if facts.get("error") is not None:
            # the second notice of a failed start carries the endpoint's own id: it is not about the endpoint
            log.info("endpoint %s: notice ignored: %.200s", core.id, facts["error"])
            return
        inner = facts.get("info")  # old thread-pool endpoints wrap their report
        if isinstance(inner, dict):
            facts = inner
        period = _number(facts.get("heartbeat_period"), core.period_s)
        if period <= 0:
            self.core_offline(core, "it said goodbye")
            return
        core.period_s, core.last_seen = period, time.monotonic()
        self._fleet.store.write_later(lambda c: endpoints.seen(c, core.id, period_s=period))
        if not core.uses_commands and core.id in self._fleet.ueps:
            self._alive(self._fleet.ueps[core.id], facts)
        if not core.online:
            core.online = True
            log.info("endpoint %s is online", core.id)
            self._fleet.arm(core, self._fleet.silence_s(core), self._core_silent)
            self._fleet.count()
            self.core_back(core)

    def core_back(self, core: Core) -> None:
        """The endpoint is (again) there: start what waits for it, look at what should run. What it had begun to
        start is begun anew: it may be another process, which knows nothing of that."""
        for uep in list(core.ueps.values()):
            if uep.state == UP:
                self._fleet.spawn(self._look(uep), name=f"look at {uep.id}")
            elif uep.open:
                self._starts.hold(uep)
                self._starts.begin(uep)

    def core_offline(self, core: Core, why: str) -> None:
        """The endpoint is gone: what was being started waits for it."""
        if core.online:
            log.info("endpoint %s is offline: %s", core.id, why)
        core.online = False
        if core.timer is not None:
            core.timer.cancel()
        self._fleet.store.write_later(lambda c: endpoints.seen(c, core.id, period_s=0.0))
        for uep in core.ueps.values():
            if uep.state == STARTING:
                self._starts.hold(uep)
        self._fleet.count()

    async def rekey(self, core: Core) -> None:
        """It seals with other keys than before, or has begun or ceased to seal."""
        log.warning("endpoint %s was registered with other keys: what is on its way ends", core.id)
        await asyncio.gather(*(self._starts.rekey(uep) for uep in list(core.ueps.values())))
        await self._broker.purge_commands(core.id)

    async def remove(self, endpoint_id: str) -> None:
        """The endpoint is deleted: whatever waits for it ends."""
        core = self._fleet.cores.get(endpoint_id)
        for uep in list(core.ueps.values()) if core is not None else []:
            text = "The endpoint was deleted before this task had its result."
            await self._endings.fail(uep, Code.NOT_FOUND, text, purge=True)
            await self._starts.retire(uep)
        self._fleet.forget(endpoint_id)

    def _core_silent(self, core: Core) -> None:
        rest_s = core.last_seen + self._fleet.silence_s(core) - time.monotonic()
        if rest_s > 0:
            self._fleet.arm(core, rest_s + 0.01, self._core_silent)
        else:
            self.core_offline(core, f"no heartbeat for {self._fleet.silence_s(core):.0f} s")

    # ---- user endpoints ----

    def _alive(self, uep: Uep, facts: dict[str, Any]) -> None:
        uep.period_s = _number(facts.get("heartbeat_period"), uep.period_s or 30.0)
        uep.last_seen = time.monotonic()
        uep.facts = {k: facts[k] for k in _FACTS if isinstance(facts.get(k), int | float)}
        if uep.state != UP:
            self._fleet.set_state(uep, UP)  # also one we thought stopped, restarted in its grace time
            self._fleet.arm(uep, self._fleet.silence_s(uep), self._silent)
        if uep.open and uep.core.uses_commands:
            self._fleet.spawn(self._audit(uep, facts), name=f"audit {uep.id}")
        else:
            uep.idle_since = 0.0

    async def _audit(self, uep: Uep, facts: dict[str, Any]) -> None:
        """Is anybody at work on what it owes? Without a consumer it is deaf; with an empty queue and nothing to
        do, over two reports, the tasks were lost by a user endpoint that keeps no journal."""
        queue = await self._broker.queue_facts(uep.id)
        if queue.consumers == 0:
            await self._look(uep, reports=True)
            return
        busy = [facts[k] for k in ("outstanding_tasks", "pending_tasks") if isinstance(facts.get(k), int)]
        if not busy or any(busy) or queue.messages:
            uep.idle_since = 0.0
        elif not uep.idle_since:
            uep.idle_since = time.time()
        elif time.time() - uep.idle_since > 0.5 * uep.period_s:
            since, uep.idle_since = uep.idle_since, 0.0
            text = "The user endpoint that took this task ended before it sent a result."
            await self._endings.fail(uep, Code.TASK_LOST, text, before=since - uep.period_s, published=True)

    def verify(self, uep: Uep) -> None:
        """Somebody has just submitted to a user endpoint that we think is up: is it?

        Each submit is followed by a look, one look a second serves them all.
        """
        if uep.check is not None:
            return
        rest_s = uep.checked + _CHECK_EVERY_S - time.monotonic()
        if rest_s > 0:
            uep.check = asyncio.get_running_loop().call_later(rest_s, self._verify_now, uep)
        else:
            self._verify_now(uep)

    def _verify_now(self, uep: Uep) -> None:
        uep.check, uep.checked = None, time.monotonic()
        self._fleet.spawn(self._look(uep), name=f"look at {uep.id}")

    async def _look(self, uep: Uep, *, reports: bool = False) -> None:
        """Find out whether anybody consumes its tasks; if not, for a moment, send a start command. One that is up
        after all ignores it. `reports`: it has just shown a sign of life."""
        if not uep.core.uses_commands or (await self._broker.queue_facts(uep.id)).consumers:
            return
        if uep.doubt is None:
            again = partial(self._look_again, uep, reports=reports)
            uep.doubt = asyncio.get_running_loop().call_later(_CHECK_AGAIN_S, self._spawn_look, uep, again)

    def _spawn_look(self, uep: Uep, again: Callable[[], Coroutine[Any, Any, None]]) -> None:
        uep.doubt = None
        self._fleet.spawn(again(), name=f"look at {uep.id} again")

    async def _look_again(self, uep: Uep, *, reports: bool) -> None:
        if uep.state != UP:
            return
        if (await self._broker.queue_facts(uep.id)).consumers:
            return
        log.warning("user endpoint %s: nobody takes its tasks", uep.id)
        if reports and uep.tries:
            # started again, it still reports and does not listen: only without its account will it end
            await self._starts.evict(uep)
        self._over(uep)

    def _silent(self, uep: Uep) -> None:
        rest_s = uep.last_seen + self._fleet.silence_s(uep) - time.monotonic()
        if rest_s > 0:
            self._fleet.arm(uep, rest_s + 0.01, self._silent)
        elif uep.state == UP:
            self._fleet.spawn(self._presumed_dead(uep), name=f"silence of {uep.id}")

    async def _presumed_dead(self, uep: Uep) -> None:
        if not uep.core.uses_commands:
            self._fleet.set_state(uep, STOPPED)
        elif (await self._broker.queue_facts(uep.id)).consumers:
            self._fleet.arm(uep, self._fleet.silence_s(uep), self._silent)
        else:
            log.warning("user endpoint %s is silent and takes no tasks: presumed dead", uep.id)
            self._over(uep)

    def _ended(self, uep: Uep, ended: object) -> None:
        code = ended.get("code") if isinstance(ended, dict) else ""
        if code:
            log.warning("user endpoint %s ended: %.40s", uep.id, code)
        if uep.state == STARTING and not code:
            return  # the goodbye of the one before: a start command is under way, and the endpoint honours it
        self._over(uep)

    def _over(self, uep: Uep) -> None:
        """It is gone. Start it again if it owes tasks; they may have been queued while it left."""
        self._fleet.set_state(uep, STOPPED)
        if uep.timer is not None:
            uep.timer.cancel()
        if uep.open:
            self._again(uep, min(_AGAIN_S * 2**uep.tries, 30.0))
        else:
            uep.tries = 0

    def _again(self, uep: Uep, delay_s: float) -> None:
        self._fleet.arm(uep, delay_s, self._again_now)

    def _again_now(self, uep: Uep) -> None:
        if uep.open and uep.state == STOPPED:
            self._starts.begin(uep)

    def _start_failed(self, uep: Uep, facts: dict[str, Any]) -> None:
        if uep.state == UP:
            log.info("user endpoint %s: notice ignored, it is up: %.200s", uep.id, facts["error"])
            return
        about = facts.get("request_id")
        if uep.state == STARTING and about in list(uep.requests)[:-1]:
            log.info("user endpoint %s: notice ignored, it is about an earlier start: %s", uep.id, about)
            return
        code, text = str(facts.get("error_code") or "")[:100], str(facts["error"])[:_MAX_TEXT_CHARS]
        self._starts.failed(uep, code, text)


_FACTS = ("total_workers", "idle_workers", "pending_tasks", "outstanding_tasks", "managers")


def _number(value: object, otherwise: float) -> float:
    """Return a heartbeat period; what is none, or absurd, is not believed."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_PERIOD_S:
        return otherwise
    return float(value)
