"""One user endpoint and everybody who has a say in its life, on one loop with a clock of its own.

Real: the relay's Fleet, Starts, Liveness, Endings, Results, Expiry and Dispatch, and its SQL (in memory); the
monitor's Keeper, Reaper, Outcomes and socket messages; the user endpoint's service, Tasks, Ledger, Journal, Trail,
IdleClock, Outbox and link to the monitor. Modelled, below: the broker (queues, unacknowledged messages, one
exclusive consumer), the gate (acknowledges a command when it is decided; its Gatekeeper keeps the ends of user
endpoints for the next gate), the process table, the engine, and the client, which repeats an unanswered submit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from mep.base.ids import new_id
from mep.config.user_endpoint import load_user_endpoint_config
from mep.endpoint import journal, reports, service
from mep.endpoint.journal import Journal
from mep.endpoint.prepare import Renewed
from mep.priv import clone
from mep.relay import commands
from mep.relay.seals import Seals
from mep.relay.store import accounts, endpoints, schema, tasks, ueps
from mep.relay.store.tasks import Group
from mep.relay.store.ueps import UepRecord
from mep.wire import envelope
from mep.wire.signing import StartClaims
from support.racebroker import CORE, PERSON, SECRET, UEP, Broker, ModelLinks
from support.racedaemon import GRACE_S, Daemon
from support.racedisk import Disk
from support.racerelay import RelayProcess
from support.raceuep import BEAT_S, ModelEngine, UepProcess
from support.virtualtime import Process, VirtualLoop, current

SYNC_WITHIN_S = 0.003  # this disk needs no time
FORGOTTEN = b"ended before it sent a result"  # the relay, of user endpoints that keep no journal

GROUP = new_id()
FUNCTION = new_id()
_MOST_TROUBLE = 20
_WORLDS: list[Any] = []  # the one that the clock is asked about


class World:
    """Everything, and what can happen to it. Use as `with World.made(folder) as world`."""

    def __init__(self, folder: Path) -> None:
        _WORLDS[:] = [self]
        self.folder, self.loop = folder, VirtualLoop()
        self.trouble: list[str] = []
        self.log: list[str] = []
        self.loop.set_exception_handler(self._on_trouble)
        self.children: dict[int, UepProcess] = {}
        self.disk = Disk(folder)  # of the journal
        self.runs: Counter[str] = Counter()
        self.began: dict[str, float] = {}
        self.obeyed: set[str] = set()
        self.draining = self.unmapped = self.broken = False
        self.edition = 0  # of rules and mapping
        self.function, self.group = FUNCTION, GROUP
        self.asked: dict[str, float] = {}
        self.accepted: set[str] = set()
        text = f"engine:\n  type: ThreadPoolEngine\nheartbeat_period: {BEAT_S:g}\nidle_heartbeats_soft: 2\n"
        self.uep_config = load_user_endpoint_config(text, source="model")
        self.connection = _database()
        self.record = UepRecord(id=UEP, endpoint_id=CORE, identity_id=PERSON)
        self.endpoint = endpoints.Endpoint(
            id=CORE, owner_id=PERSON, name="m", multi_user=True, period_s=BEAT_S, seals=1
        )
        endpoints.save(self.connection, self.endpoint)
        ueps.add(self.connection, self.record)
        tasks.add_group(self.connection, Group(GROUP, PERSON, has_queue=True, created=0.0))
        self.broker = Broker()
        self.processes: list[Process] = []

    def begin(self) -> None:
        self.daemon = Daemon(self)
        self.relay = RelayProcess(self)

    def do(self, action: Callable[[], object]) -> None:
        """Let `action` happen now."""

        async def act() -> None:
            action()

        self.loop.run_until_complete(act())

    def wall(self) -> float:
        return 1_800_000_000.0 + self.loop.now

    def note(self, what: str) -> None:
        self.log.append(f"{self.loop.now - 1_000_000:.3f} {what}")

    def _on_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.trouble.append(str(context.get("exception") or context["message"]))
        if len(self.trouble) > _MOST_TROUBLE:
            loop.stop()  # what fails to read a socket is called for ever

    # ---- what can happen ----

    def advance(self, seconds: float) -> None:
        try:
            self.loop.run_until_complete(asyncio.sleep(seconds))
        finally:
            assert not self.trouble, "\n".join([*self.trouble, *self.log])

    def submit(self, seconds: float) -> str:
        task_id = new_id()
        self.note(f"submit {task_id[:4]} {seconds}")
        self.asked[task_id] = seconds
        self._ask(task_id)
        return task_id

    def until_it_leaves(self) -> float:
        """Return how long it takes until the user endpoint, idle, has decided to leave and has not left."""
        beats = [c for c in self.children.values() if c.serves]
        return 3 * BEAT_S + 0.012 if beats else 0.3

    def _ask(self, task_id: str) -> None:
        async def ask() -> None:
            await self.relay.submit(task_id, self.asked[task_id])
            self.accepted.add(task_id)

        self.relay.process.run(self.loop, ask())

    def start_command(self) -> None:
        """One more, as after a relay's doubt."""
        self.note("extra start command")
        relay = self.relay

        def send() -> None:
            uep = relay.fleet.ueps.get(UEP)
            if uep is not None:
                relay.fleet.spawn(relay.starts._command(uep, new_id()), name="extra")

        if relay.ready.is_set():
            relay.process.call(send)

    def kill_uep(self) -> None:
        self.note("kill -9 user endpoint")
        for child in list(self.children.values()):
            child.die(clone.Ended(0, 9))

    def kill_gate(self) -> None:
        self.note("kill -9 gate")
        self.daemon.kill_gate()

    def kill_monitor(self) -> None:
        self.note("kill -9 monitor")
        self.daemon.kill()

    def kill_machine(self) -> None:
        """All of the endpoint's side ends, nobody says goodbye, and what no sync has put on disk is gone.

        What began so shortly before that it is not written down begins again.
        """
        self.note("power cut")
        self.daemon.kill_gate()
        self.daemon.kill()
        self.disk.cut()
        for task_id, at in self.began.items():
            if self.loop.now - at <= SYNC_WITHIN_S:
                self.runs[task_id] = 0

    def begins(self, task_id: str) -> None:
        """A worker has it."""
        self.runs[task_id] += 1
        self.began[task_id] = self.loop.now

    def stop(self) -> None:
        self.note("mep stop")
        self.daemon.stop()

    def stop_user(self) -> None:
        """`mep stop-user`: what comes from now on is for the next user endpoint."""
        if not self.daemon.over:
            self.note("mep stop-user")
            self.daemon.process.call(lambda: self.daemon.keeper.stop_user("alice"))

    def start(self) -> None:
        if self.daemon.over:
            self.note("mep start")
            self.daemon = Daemon(self)

    def drain(self) -> None:
        """The one change of settings that refuses work."""
        self.draining = not self.draining
        self.note(f"draining {self.draining}")
        self.daemon.keeper.draining = self.draining

    def change_mapping(self) -> None:
        """Whoever is forked from now on finds no account, or one again."""
        self.unmapped = not self.unmapped
        self.edition += 1
        self.note(f"nobody is mapped {self.unmapped}")

    def change_template(self) -> None:
        """What is rendered by those that are forked from now on is an error, or none any more."""
        self.broken = not self.broken
        self.note(f"the template is broken {self.broken}")

    def restart_relay(self) -> None:
        self.note("kill -9 relay")
        self.relay.kill()
        self.relay = RelayProcess(self)
        for task_id in sorted(set(self.asked) - self.accepted):  # their callers ask again
            self._ask(task_id)

    def broker_down(self) -> None:
        self.note("broker down")
        self.broker.restart()

    def broker_up(self) -> None:
        self.note("broker up")
        self.broker.back()

    # ---- what must be ----

    def settle(self) -> float:
        """Everything is up, and nothing more happens, until all tasks have ended. Return how long that took."""
        self.do(self.broker_up)
        if self.draining:
            self.do(self.drain)
        if self.unmapped:
            self.do(self.change_mapping)
        if self.broken:
            self.do(self.change_template)
        if self.daemon.keeper.stopping or self.daemon.over:
            self.advance(0.0 if self.daemon.over else GRACE_S + 0.2)
            self.do(self.start)
        self.note("settle")
        began = self.loop.now
        while not self.quiet() and self.loop.now - began < 500.0:
            self.advance(0.5)
        took_s = self.loop.now - began
        self.advance(2.0)  # nothing comes after the end
        return took_s

    def quiet(self) -> bool:
        return self.accepted == set(self.asked) and not self.open_tasks()

    def open_tasks(self) -> list[str]:
        return list(tasks.open_task_ids(self.connection, UEP))

    def outcomes(self) -> dict[str, set[str]]:
        """What the user was told of each task: its data, or the code of its error."""
        told: defaultdict[str, set[str]] = defaultdict(set)
        for body in self.broker.groups:
            result = envelope.decode(body)
            assert isinstance(result, envelope.Result)
            told[result.task_id].add(result.error_details.code if result.error_details else result.data)
        return told

    def check(self, story: str = "") -> dict[str, str]:
        """Each task has one outcome, and was begun once at most. Returns the outcomes."""
        story = "\n".join([story, *self.log])
        assert self.quiet(), f"open: {self.open_tasks()}\n{story}"
        told = self.outcomes()
        assert set(told) == set(self.asked), f"never told: {set(self.asked) - set(told)}\n{story}"
        assert all(len(words) == 1 for words in told.values()), f"{told}\n{story}"
        assert all(count <= 1 for count in self.runs.values()), f"run twice: {self.runs}\n{story}"
        forgot = [body for body in self.broker.groups if FORGOTTEN in body]
        assert not forgot, f"not in the journal any more: {forgot}\n{story}"
        return {task_id: words.pop() for task_id, words in told.items()}

    def close(self) -> None:
        if not self.daemon.over:
            self.do(self.daemon.kill)
        self.relay.process.dead = True
        pending = asyncio.all_tasks(self.loop)
        self.loop.set_exception_handler(lambda *_: None)
        self.loop.reviving = True
        for task in pending:
            task.cancel()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        if pending:
            self.loop.run_until_complete(asyncio.wait(pending, timeout=10.0))
        self.loop.close()
        self.connection.close()


_ENGINE = create_engine("sqlite://", poolclass=StaticPool, isolation_level="AUTOCOMMIT")  # compiles SQL once
_EMPTY: list[bytes] = []  # a database with nothing but its tables: making them takes longer than most worlds


def _database() -> Any:
    connection = _ENGINE.connect()
    sqlite: Any = connection.connection.dbapi_connection
    if not _EMPTY:
        schema.metadata.create_all(connection)
        accounts.ensure_identity(connection, "alice@example.org", identity_id=PERSON)
        _EMPTY.append(sqlite.serialize())
    sqlite.deserialize(_EMPTY[0])
    return connection


class _Os:
    """The module `os`, as the disk of the world has it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_WORLDS[-1].disk, name)


class _Trouble(logging.Handler):
    """What anybody logs as an error is none that these events explain."""

    def emit(self, record: logging.LogRecord) -> None:
        world: World = _WORLDS[-1]
        world.trouble.append(self.format(record))


@contextmanager
def model(monkeypatch: Any) -> Iterator[Callable[[Path], World]]:
    """Put the model's parts and clock where the real code looks for them; call what it yields for a world."""

    def here() -> World:
        world: World = _WORLDS[-1]
        return world

    def running() -> Process:
        process = current()
        assert process is not None, "only a process has links"
        return process

    clock = SimpleNamespace(
        **{name: getattr(time, name) for name in ("strftime", "gmtime", "perf_counter", "localtime")},
        time=lambda: here().wall(),
        time_ns=lambda: int(here().wall() * 1e9),
        monotonic=lambda: here().loop.now,
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("mep.") and getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(clone, "reap", lambda fd, **_: here().children[fd].ended)
    monkeypatch.setattr(service, "Links", lambda *_, **__: ModelLinks(here().broker, running()))
    monkeypatch.setattr(service, "Journal", lambda path, **_: Journal(path))
    monkeypatch.setattr(journal, "os", _Os())
    monkeypatch.setattr(service, "build_engine", lambda _config, around: ModelEngine(here(), around))
    monkeypatch.setattr(service, "show_title", lambda *_: None)
    monkeypatch.setattr(reports, "process_facts", lambda *_, **__: {})

    def refresh(fd: int, _uep: str) -> Renewed:
        os.close(fd)
        creds: Any = None
        return Renewed(creds, Seals(SECRET).uep_key(UEP, 1))

    def command(record: UepRecord, *_: Any, request_id: str, **_more: Any) -> tuple[bytes, str]:
        now = here().wall()
        claims = StartClaims(
            aud=CORE, jti=request_id, iat=now, exp=now + 150, uep=record.id, sub=PERSON,
            username="alice@example.org", ids=[], sha256="",
        )  # fmt: skip
        return msgspec.json.encode(claims), ""

    monkeypatch.setattr(service, "read_refresh", refresh)
    monkeypatch.setattr(commands, "start_command", command)
    logger = logging.getLogger("mep")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    monkeypatch.setattr(logger, "handlers", [_Trouble()])
    monkeypatch.setattr(logger, "propagate", False)
    logger.manager._clear_cache()  # type: ignore[attr-defined]

    def make(folder: Path) -> World:
        world = World(folder)
        asyncio.set_event_loop(world.loop)
        world.do(world.begin)
        world.advance(1.0)
        return world

    yield make
