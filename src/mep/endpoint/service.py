"""The running user endpoint: takes tasks, gives them to its engine, sends results, and knows when to leave."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from typing import Any

from mep.base.codes import Code
from mep.base.errors import InputError, MepError, ServiceError
from mep.base.exits import Exit
from mep.broker import State
from mep.endpoint import reports
from mep.endpoint.home import Home
from mep.endpoint.idle import IdleClock
from mep.endpoint.journal import Journal
from mep.endpoint.links import Links
from mep.endpoint.monitorlink import MonitorLink
from mep.endpoint.prepare import Plan, read_refresh
from mep.endpoint.tasks import Tasks
from mep.endpoint.title import show_title
from mep.endpoint.trail import Trail
from mep.engines.base import Engine, Surroundings
from mep.engines.registry import build_engine
from mep.wire import seal
from mep.wire.launch import Launch
from mep.wire.seal import Sealer

log = logging.getLogger(__name__)

_CONNECT_WITHIN_S = 120.0
_TERM_GRACE_S = 8.0
#: Heartbeats without a consumer and without a task at hand, after which a fresh one may do better.
_DEAF_BEATS = 10
LOCK_WAIT_S = 10.0  # for one of the same id that is just leaving
_GOODBYE_S = 3.0
_NOTE_WITHIN_S = 0.5  # how old the counts in `mep status` may be
_TRAIL_S = 1.0  # for the monitor to take the last events of tasks
_GOODBYE_ALONE_S = 0.3  # without a monitor: whoever killed it wants us gone


class UserEndpoint:
    """One life of a user endpoint. `run` returns the exit status."""

    def __init__(self, launch: Launch, plan: Plan, home: Home) -> None:
        self._launch, self._plan, self._home = launch, plan, home
        config = plan.config
        told = "heartbeat_period" in config.model_fields_set
        self._period_s = float(config.heartbeat_period if told else launch.heartbeat_period_s)
        self._idle = IdleClock(config.idle_heartbeats_soft, config.idle_heartbeats_hard)
        self._monitor = MonitorLink(launch.monitor_fd)
        self._leave: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()
        self._facts = reports.process_facts(launch, plan.config_text, started_at=time.time())
        self._links = Links(
            plan.creds,
            name=f"user endpoint {launch.uep_id}",
            amqp_port=config.amqp_port,
            on_state=self._on_broker,
        )
        self._journal = Journal(home.file("journal"), wait_for_lock_s=LOCK_WAIT_S)
        self._engine: Engine = self._build_engine()
        self._trail = Trail(self._monitor.tasks if launch.task_events else None)
        self._tasks = Tasks(
            self._engine,
            self._links,
            self._journal,
            uep_id=launch.uep_id,
            allowed_functions=_allowed(launch.allowed_functions, config.allowed_functions),
            retry_lost=config.retry_lost_tasks,
            limit_met=launch.limit_met,
            seal_key=plan.seal_key,
            trail=self._trail,
            on_moved=self._moved,
            on_trouble=self._note,
        )
        self._seal_key = plan.seal_key
        self._reports_sealer = self._make_reports_sealer()
        self._beat_timer: asyncio.TimerHandle | None = None
        self._note_timer: asyncio.TimerHandle | None = None
        self._goodbye_s = _GOODBYE_S
        self._deaf_beats = 0
        self._countdown = ""
        self._held = ""  # why the monitor lets us take no more tasks

    async def run(self) -> int:
        """Live until told or idle."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._want_out, "told to stop", _TERM_GRACE_S)
        self._monitor.listen(
            on_quit=self._on_quit,
            on_refresh=self._on_refresh,
            on_hold=self._on_hold,
            on_gone=self._on_monitor_gone,
        )
        try:
            self._links.open()
            await self._engine.start()
            self._tasks.begin()
            if await self._connected():
                self._monitor.ready()
                log.info("takes tasks with %s", self._engine.kind)
                self._beat(first=True)
            reason, grace_s = await self._leave
            await self._depart(reason, grace_s)
        finally:
            await self._engine.stop(0.0)
            self._tasks.close()
            await self._monitor.drained(self._trail.flush, _TRAIL_S)
            self._trail.close()
        return Exit.OK

    def _build_engine(self) -> Engine:
        surroundings = Surroundings(
            uep_id=self._launch.uep_id,
            state_dir=self._home.directory,
            title=f"mep worker {self._launch.endpoint_name} {self._launch.user_name}",
            on_start=lambda task_id: self._tasks.started(task_id),
            on_running=lambda task_id, place: self._tasks.running(task_id, place),
            on_done=lambda outcome: self._tasks.finished(outcome),
            may_rerun=lambda task_id: self._tasks.may_rerun(task_id),
            on_broken=lambda why: self._want_out(f"the engine failed: {why}", 0.0),
        )
        return build_engine(self._plan.config.engine, surroundings)

    async def _connected(self) -> bool:
        """Wait until the broker gives us tasks; False if we are to leave before that."""
        consuming = asyncio.ensure_future(self._tasks.wait_consuming())
        either: list[asyncio.Future[Any]] = [consuming, self._leave]
        try:
            await asyncio.wait(either, timeout=_CONNECT_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if self._leave.done():
                return False
            if consuming.done():
                return True
        finally:
            consuming.cancel()
        state = self._links.state
        refused = state.state == "refused"
        raise ServiceError(
            Code.BROKER_REFUSED if refused else Code.BROKER_UNREACHABLE,
            f"The user endpoint had no connection to the broker within {_CONNECT_WITHIN_S:.0f} s: "
            f"{state.detail or self._tasks.trouble or state.state}",
        )

    # ---- signs of life ----

    def _beat(self, *, first: bool = False) -> None:
        self._beat_timer = asyncio.get_running_loop().call_later(self._period_s, self._beat)
        verdict = self._idle.beat(self._tasks.outstanding)
        self._deaf_beats = 0 if self._tasks.consuming else self._deaf_beats + 1
        self._report(active=True)
        if self._deaf_beats >= _DEAF_BEATS and not self._tasks.outstanding:
            self._want_out(f"no tasks from the broker for {_DEAF_BEATS} heartbeats: {self._tasks.trouble}", 0.0)
            return
        if verdict.leave:
            why = f"no task or result moved for {self._plan.config.idle_heartbeats_hard} heartbeats"
            self._want_out(why if verdict.hard else "idle", 0.0)
            return
        countdown = ""
        if verdict.beats_left is not None and not verdict.hard:
            countdown = f"idle, leaves in {verdict.beats_left} heartbeat{'s' * (verdict.beats_left != 1)}"
        self._show(countdown)
        if not first:
            self._home.trim_output()

    def _moved(self) -> None:
        self._idle.moved()
        if self._held:
            asyncio.get_running_loop().call_soon(self._leave_if_held)
        if self._countdown:
            self._show("")
        elif self._note_timer is None and not self._leave.done():  # one note for all that moves meanwhile
            self._note_timer = asyncio.get_running_loop().call_later(_NOTE_WITHIN_S, self._note)

    def _show(self, countdown: str) -> None:
        if countdown != self._countdown:
            self._countdown = countdown
            show_title(self._launch, countdown)
        self._note()

    def _report(self, *, active: bool) -> None:
        links, more = self._links, self._tasks.trouble
        if links.reports is None or links.reports_route is None:
            return
        body = reports.report(
            self._launch.uep_id,
            self._facts,
            self._engine.facts(),
            active=active,
            period_s=self._period_s,
            **({"trouble": more} if more else {}),
        )
        if self._reports_sealer is not None:
            body = self._reports_sealer.seal(body)
        future = links.reports_route.publish(links.reports, body)
        future.add_done_callback(_log_unsent)

    def _note(self) -> None:
        if self._note_timer is not None:
            self._note_timer.cancel()
            self._note_timer = None
        broker = self._links.state
        parts = [self._engine.kind, self._countdown, self._tasks.trouble]
        if broker.state != "connected":
            parts.append(f"broker {broker.state}")
        text = "; ".join(part for part in parts if part)
        self._monitor.note(text, done=self._tasks.done, pending=self._tasks.outstanding)

    # ---- what others want ----

    def _on_broker(self, _state: State) -> None:
        self._note()

    def _on_quit(self, grace_s: float) -> None:
        self._want_out("told to stop", grace_s)

    def _on_hold(self, why: str) -> None:
        self._held = why
        self._tasks.hold(why)
        self._leave_if_held()

    def _leave_if_held(self) -> None:
        """What it had taken is done, and it may take no more: who is asked next can say why."""
        if self._held and not self._tasks.outstanding:
            self._want_out(self._held, 0.0)

    def _on_monitor_gone(self) -> None:
        self._goodbye_s = _GOODBYE_ALONE_S
        self._want_out("the monitor is gone", 0.0)

    def _on_refresh(self, fd: int) -> None:
        try:
            renewed = read_refresh(fd, self._launch.uep_id)
        except InputError as error:
            log.error("refresh: %s", error.for_admin())
            return
        self._links.refresh(renewed.creds)
        if renewed.seal_key != self._seal_key:
            self._seal_key = renewed.seal_key
            self._tasks.use_key(self._seal_key)
            self._reports_sealer = self._make_reports_sealer()
        self._moved()  # somebody counts on this endpoint: the idle time begins anew

    def _make_reports_sealer(self) -> Sealer | None:
        return Sealer(self._seal_key, seal.REPORT, self._launch.uep_id) if self._seal_key is not None else None

    def _want_out(self, reason: str, grace_s: float) -> None:
        if not self._leave.done():
            self._leave.set_result((reason, grace_s))

    # ---- leaving ----

    async def _depart(self, reason: str, grace_s: float) -> None:
        log.info("leaves: %s", reason)
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        if self._note_timer is not None:
            self._note_timer.cancel()
        show_title(self._launch, "stopping")
        self._monitor.note("stopping", done=self._tasks.done, pending=self._tasks.outstanding)
        self._tasks.stop_taking()
        self._engine.hold()
        await self._tasks.wait_running(grace_s)
        await self._engine.stop(0.0)
        self._tasks.lose_running(f"The user endpoint stopped ({reason}) while the task ran.")
        self._report(active=False)
        await self._links.close(self._goodbye_s)


def _log_unsent(done: asyncio.Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        log.error("report not sent: %s", error.for_admin() if isinstance(error, MepError) else repr(error))


def _allowed(of_endpoint: tuple[str, ...] | None, of_config: Any) -> frozenset[str] | None:
    """Both the administrator's and the template's list hold; None where there is none."""
    lists = [frozenset(map(str, ids)) for ids in (of_endpoint, of_config) if ids is not None]
    return frozenset.intersection(*lists) if lists else None
