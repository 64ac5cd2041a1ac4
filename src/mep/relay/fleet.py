"""Which endpoints and user endpoints are up, as far as the relay can tell, and what it does about it.

    stopped --submit--> starting --report--> up --active: false / silence--> stopped
                 `--endpoint offline--> waiting --endpoint online--> starting

Signs of life arrive as status reports (`on_report`); silence is found by one timer per endpoint and user endpoint,
which looks at the last sign when it fires, so that a heartbeat costs no timer. What goes wrong is ended in
`endings`, start commands go out in `starts`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

from mep.relay import metrics
from mep.relay.settings import Settings
from mep.relay.store import Store, endpoints, ueps
from mep.relay.store.endpoints import Endpoint
from mep.relay.store.ueps import UepRecord
from mep.wire.limits import COMMAND_MAX_SKEW_S
from mep.wire.seal import Stamp

log = logging.getLogger(__name__)

_LIVES = 16  # of one sender, whose end is remembered

STOPPED, WAITING, STARTING, UP = "stopped", "waiting", "starting", "up"


class Newest:
    """The newest sealed report of one channel: what is older is a recording, or was overtaken.

    Numbers decide within one life of the sender, issue times between lives; a life that is over stays so. A time
    in the future counts as little more than now, so that a clock that was set right silences nobody for long.
    """

    __slots__ = ("issued", "number", "over", "sender")

    def __init__(self, issued: float) -> None:
        self.sender, self.number, self.issued = b"", 0, issued
        self.over: deque[bytes] = deque(maxlen=_LIVES)

    def advances(self, stamp: Stamp, now: float) -> bool:
        """Tell whether `stamp` is newer than all before it; if so, it is the newest now."""
        if stamp.sender == self.sender:
            if stamp.number <= self.number:
                return False
        elif stamp.issued <= self.issued or stamp.sender in self.over:
            return False
        else:
            self.over.append(self.sender)
        self.sender, self.number = stamp.sender, stamp.number
        self.issued = max(self.issued, min(stamp.issued, now + COMMAND_MAX_SKEW_S))
        return True


class Core:
    """A registered endpoint's liveness. Times: monotonic seconds."""

    __slots__ = (
        "high_assurance",
        "id",
        "last_seen",
        "online",
        "period_s",
        "registered",
        "reread",
        "seals",
        "stamped",
        "start_key",
        "timer",
        "ueps",
        "uses_commands",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.id = endpoint.id
        self.uses_commands = endpoint.uses_commands
        self.high_assurance = endpoint.high_assurance
        self.registered, self.seals = endpoint.registered, endpoint.seals
        self.start_key = endpoint.start_key  # the newest that it was told
        self.reread = 0.0  # when the database was last asked for its keys; monotonic
        self.stamped = Newest(endpoint.stamped)
        self.online = False
        self.period_s = endpoint.period_s
        self.last_seen = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.ueps: dict[str, Uep] = {}


class Uep:
    """A user endpoint's state. `open`: unfinished tasks. `tries`: start commands since the last progress."""

    __slots__ = (
        "check",
        "checked",
        "core",
        "doubt",
        "facts",
        "idle_since",
        "inflight",
        "keys_refused",
        "last_seen",
        "open",
        "period_s",
        "quiet",
        "record",
        "requests",
        "settling",
        "stamped",
        "state",
        "stored",
        "timer",
        "tries",
    )

    def __init__(self, record: UepRecord, core: Core) -> None:
        self.record = record
        self.core = core
        self.state = STOPPED
        self.open = 0
        self.tries = 0
        self.keys_refused = 0  # of those that sign its start commands, from the newest on
        self.last_seen = 0.0  # monotonic
        self.period_s = record.period_s
        self.timer: asyncio.TimerHandle | None = None
        self.checked = 0.0  # when its consumer was last looked for because of a submit; monotonic
        self.check: asyncio.TimerHandle | None = None  # until that is done again
        self.requests: deque[str] = deque(maxlen=8)  # of the last start commands, the latest last
        self.doubt: asyncio.TimerHandle | None = None  # until its missing consumer is looked for again
        self.stamped = Newest(record.stamped)
        self.stored = False  # its record is known to be on disk
        self.inflight = 0  # submits between "stored" and "published"
        self.quiet: asyncio.Event | None = None  # set when inflight falls to 0
        self.settling: asyncio.Future[None] | None = None  # while its queue is purged: submits wait
        self.idle_since = 0.0  # wall time since which it reports nothing to do, although tasks are open
        self.facts: dict[str, Any] = {}  # worker and task counts of its last report

    @property
    def id(self) -> str:
        return self.record.id


class Fleet:
    """The register of both. Everything happens on the loop."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.cores: dict[str, Core] = {}
        self.ueps: dict[str, Uep] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- the register ----

    async def load(self) -> None:
        """Take over what an earlier relay knew: whoever was alive has a full silence period to show it again."""
        known = await self.store.read_much(endpoints.listed)
        records = await self.store.read_much(ueps.not_stopped_or_owing)
        counts = await self.store.read_much(ueps.open_counts)
        now, wall = time.monotonic(), time.time()
        for endpoint in known:
            core = self.cores[endpoint.id] = Core(endpoint)
            if endpoint.period_s > 0 and wall - endpoint.last_seen < self._silence_s(endpoint.period_s) + 300:
                core.online, core.last_seen = True, now
        for record in records:
            core_or_none = self.cores.get(record.endpoint_id)
            if core_or_none is None:
                continue
            uep = self.adopt(record, core_or_none)
            uep.state = record.state if record.state == UP else STOPPED
            uep.last_seen = now
            uep.open = counts.get(record.id, 0)
        self.count()

    def core(self, endpoint: Endpoint) -> Core:
        """Return the liveness of a registered endpoint."""
        core = self.cores.get(endpoint.id)
        if core is None:
            core = self.cores[endpoint.id] = Core(endpoint)
        if endpoint.registered >= core.registered:
            core.uses_commands, core.high_assurance = endpoint.uses_commands, endpoint.high_assurance
            core.registered, core.seals, core.start_key = endpoint.registered, endpoint.seals, endpoint.start_key
        return core

    def uep(self, record: UepRecord, endpoint: Endpoint) -> Uep:
        """Return the state of a user endpoint (an old endpoint is its own)."""
        core = self.core(endpoint)  # what another relay process has registered shows here
        found = self.ueps.get(record.id)
        return found if found is not None else self.adopt(record, core)

    def online(self, endpoint_id: str) -> bool:
        core = self.cores.get(endpoint_id)
        return core is not None and core.online

    def high_assurance(self, uep_id: str) -> bool:
        uep = self.ueps.get(uep_id)
        return uep is not None and uep.core.high_assurance

    async def seals_of(self, uep_id: str) -> int:
        """Return which keys this user endpoint seals with, 0 = none; one that was not met yet is adopted."""
        uep = self.ueps.get(uep_id)
        if uep is not None:
            return uep.core.seals
        record = await self.store.read(lambda c: ueps.find(c, uep_id))
        if record is None or uep_id in self.ueps:
            return self.ueps[uep_id].core.seals if record is not None else 0
        core = self.cores.get(record.endpoint_id)
        if core is None:
            endpoint = await self.store.read(lambda c: endpoints.find(c, record.endpoint_id))
            if endpoint is None:
                return 0
            core = self.core(endpoint)
        return self.adopt(record, core).core.seals

    async def reread(self, sender: str) -> bool:
        """Look whether another relay process has registered this (user endpoint's) endpoint anew; tell whether its
        keys are others now. At most once a second for each: anybody can make us look."""
        uep = self.ueps.get(sender)
        core = uep.core if uep is not None else self.cores.get(sender)
        now = time.monotonic()
        if core is None or core.reread + 1.0 > now:
            return False
        core.reread, before = now, core.seals
        endpoint = await self.store.read(lambda c: endpoints.find(c, core.id))
        return endpoint is not None and self.core(endpoint).seals != before

    def forget(self, endpoint_id: str) -> None:
        """The endpoint was deleted."""
        core = self.cores.pop(endpoint_id, None)
        if core is None:
            return
        disarm(core)
        for uep in core.ueps.values():
            disarm(uep)
            _end_looks(uep)
            self.ueps.pop(uep.id, None)
        self.count()

    def set_state(self, uep: Uep, state: str) -> None:
        """Change a user endpoint's state, here and on disk. "waiting" is kept as "stopped"."""
        if state == uep.state:
            return
        log.info("user endpoint %s: %s -> %s (%d unfinished)", uep.id, uep.state, state, uep.open)
        period = uep.period_s if UP in (uep.state, state) else None
        uep.state = state
        if state == UP:
            uep.keys_refused = 0
        kept = STOPPED if state == WAITING else state
        self.store.write_later(lambda c: ueps.set_state(c, uep.id, kept, period_s=period))
        self.count()

    def count(self) -> None:
        """Bring the gauges up to date."""
        for state in (STOPPED, WAITING, STARTING, UP):
            metrics.UEPS.labels(state).set(sum(1 for u in self.ueps.values() if u.state == state))
        metrics.ENDPOINTS_ONLINE.set(sum(1 for c in self.cores.values() if c.online))
        metrics.TASKS_OPEN.set(sum(u.open for u in self.ueps.values()))

    # ---- timers and background work ----

    def silence_s(self, who: Core | Uep) -> float:
        return self._silence_s(who.period_s)

    def arm(self, who: Core | Uep, delay_s: float, then: Any) -> None:
        """Let `then(who)` run after `delay_s` instead of what was armed."""
        disarm(who)
        who.timer = asyncio.get_running_loop().call_later(delay_s, then, who)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run `work` beside; its failure is logged, not lost."""
        task = asyncio.get_running_loop().create_task(_logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for core in self.cores.values():
            disarm(core)
        for uep in self.ueps.values():
            disarm(uep)
            _end_looks(uep)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def adopt(self, record: UepRecord, core: Core) -> Uep:
        """Take a user endpoint into the register."""
        uep = Uep(record, core)
        self.ueps[record.id] = core.ueps[record.id] = uep
        return uep

    def _silence_s(self, period_s: float) -> float:
        return max(period_s, 1.0) * self.settings.missed_heartbeats + 1.0


def disarm(who: Core | Uep) -> None:
    if who.timer is not None:
        who.timer.cancel()
        who.timer = None


def _end_looks(uep: Uep) -> None:
    for timer in (uep.doubt, uep.check):
        if timer is not None:
            timer.cancel()
    uep.doubt = uep.check = None


async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("%s failed", name)
