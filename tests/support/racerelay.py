"""One life of the model's relay, with the real decisions in it: see raceworld."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from mep.relay.amqp import Incoming, OutgoingTask
from mep.relay.dispatch import Dispatch
from mep.relay.endings import Endings, Expiry
from mep.relay.fleet import Fleet
from mep.relay.liveness import Liveness
from mep.relay.opening import Opening
from mep.relay.results import Results
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.starts import Starts
from mep.relay.store import tasks
from mep.relay.store.tasks import Group, StoredSubmit
from mep.wire import sealed
from mep.wire.rest import SubmitAnswer
from support.racebroker import PERSON, SECRET, UEP
from support.virtualtime import Process, settle

if TYPE_CHECKING:
    from support.raceworld import World


START_TIMEOUT_S = 20.0


class InlineStore:
    """As relay.store.Store: a write is done a moment later, or never."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def read(self, job: Callable[[Any], Any]) -> Any:
        return job(self._connection)

    async def read_much(self, job: Callable[[Any], Any]) -> Any:
        await asyncio.sleep(0.002)
        return job(self._connection)

    def write(self, job: Callable[[Any], Any]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()

        def commit() -> None:
            done = job(self._connection)
            asyncio.get_running_loop().call_later(0.001, lambda: settle(future, done))

        asyncio.get_running_loop().call_later(0.003, commit)
        return future

    def write_later(self, job: Callable[[Any], object]) -> None:
        self.write(job)


class RelaysBroker:
    """As relay.amqp.RelayBroker: whatever is asked waits until the broker is there."""

    def __init__(self, world: World) -> None:
        self._world, self._broker = world, world.broker

    async def _there(self) -> None:
        await asyncio.sleep(0.003)
        while not self._broker.up.is_set():
            await asyncio.sleep(0.2)

    async def publish_command(self, endpoint_id: str, body: bytes, _token: str, *, expires_s: float) -> None:
        await self._there()
        self._world.note("command")
        self._broker.put(f"{endpoint_id}.commands", {"body": body, "headers": {}})

    async def publish_tasks(self, uep_id: str, messages: Sequence[OutgoingTask]) -> None:
        await self._there()
        for message in messages:
            self._broker.put(f"{uep_id}.tasks", {"body": message.body, "headers": message.headers()})
        await asyncio.sleep(0.003)

    async def purge_tasks(self, uep_id: str) -> int:
        await self._there()
        self._world.note("purge")
        self._broker.queues[f"{uep_id}.tasks"].clear()
        return 0

    async def queue_facts(self, uep_id: str) -> Any:
        await self._there()
        queue = f"{uep_id}.tasks"
        return SimpleNamespace(
            messages=len(self._broker.queues[queue]), consumers=int(queue in self._broker.consumers)
        )

    async def publish_results(self, _identity: str, _group: str, bodies: Sequence[bytes], **_: Any) -> None:
        await self._there()
        self._broker.groups.extend(bodies)
        await asyncio.sleep(0.003)

    async def ensure_group_queue(self, *_: str) -> None:
        await self._there()

    async def delete_uep_queues(self, *_: str) -> None:
        await self._there()


class ModelCredentials:
    """As relay.credentials.Credentials; taking them away ends the user endpoint's connection for good."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def of_uep(self, *_: Any) -> None:
        await asyncio.sleep(0.005)

    async def of_sdk(self, *_: Any) -> None:
        await asyncio.sleep(0.005)

    async def revoke(self, _user: str) -> None:
        self._world.note("evict")


class RelayProcess:
    """One life of the relay."""

    def __init__(self, world: World) -> None:
        self.world, self.process = world, Process("relay")
        self.ready = asyncio.Event()
        self.process.run(world.loop, self._life())

    async def _life(self) -> None:
        world = self.world
        store: Any = InlineStore(world.connection)
        broker: Any = RelaysBroker(world)
        settings = Settings(data_dir=world.folder, start_timeout_s=START_TIMEOUT_S)
        credentials: Any = ModelCredentials(world)
        seals = self.seals = Seals(SECRET)
        self.fleet = Fleet(store, settings)
        opening = Opening(self.fleet, seals)
        self.results = Results(
            store,
            broker,
            on_report=lambda sender, report: self.liveness.on_report(sender, report),
            on_settled=self._on_settled,
            high_assurance=self.fleet.high_assurance,
            seals=seals,
            opening=opening,
        )
        self.endings = Endings(self.fleet, self.results, broker)
        keys: Any = SimpleNamespace(before=lambda *_: None)  # commands are not signed here
        self.starts = Starts(self.fleet, self.endings, broker, credentials, keys, seals)
        self.liveness = Liveness(self.fleet, self.starts, self.endings, broker, opening)
        self.expiry = Expiry(self.fleet, self.endings)
        self.dispatch = Dispatch(
            store, broker, credentials, self.fleet, self.starts, self.liveness, self.expiry, seals, settings
        )
        self._store = store
        await broker._there()
        await self.fleet.load()
        await self.dispatch.flush()
        for queue, work in (("results", self.results.on_batch), ("heartbeats", self.liveness.on_batch)):
            self.process.run(world.loop, self._pump(queue, work))
        self.liveness.resume()
        await self.expiry.load()
        self.ready.set()

    def _on_settled(self, uep_id: str, count: int) -> None:
        uep = self.fleet.ueps.get(uep_id)
        if uep is not None:
            uep.open = max(0, uep.open - count)
            uep.tries = 0
            uep.idle_since = 0.0

    async def _pump(self, queue: str, work: Callable[[list[Incoming]], Any]) -> None:
        """A batch is taken, worked on and only then gone from the queue."""
        broker = self.world.broker
        while True:
            while not broker.queues[queue] or not broker.up.is_set():
                broker.arrived[queue].clear()
                await broker.arrived[queue].wait()
            await asyncio.sleep(0.002)
            batch = list(broker.queues[queue])
            await work([Incoming(m["sender"], m["body"], m["headers"], m.get("again", False)) for m in batch])
            for message in batch:
                broker.queues[queue].remove(message)

    def register(self) -> None:
        """As relay.registration: a new agent introduces itself."""
        core = self.fleet.core(self.world.endpoint)
        if core.online:
            self.liveness.core_back(core)

    def kill(self) -> None:
        self.process.dead = True
        for queue in ("results", "heartbeats"):
            kept = self.world.broker.queues[queue]
            self.world.broker.queues[queue] = type(kept)({**m, "again": True} for m in kept)

    async def submit(self, task_id: str, seconds: float) -> None:
        """As relay.submit, for one task; a repeat of what is stored is only published again."""
        await self.ready.wait()
        world = self.world
        uep = self.fleet.uep(world.record, world.endpoint)
        group = Group(world.group, PERSON, has_queue=True, created=0.0)
        task = sealed.encode(sealed.SealedTask(task_id, world.function, str(seconds), {}, []))
        body = self.seals.tasks(UEP, 1).seal(task)
        message = OutgoingTask(task_id, world.function, body, sealed=True)
        answer = SubmitAnswer(
            tasks={world.function: [task_id]}, task_group_id=group.id, request_id="", endpoint_id=world.endpoint.id
        )
        text = msgspec.json.encode(answer).decode()
        submit = StoredSubmit(key=task_id, body_sha256="", answer=text, created=world.wall(), published=False)
        row = {
            "id": task_id, "group_id": group.id, "uep_id": UEP, "function_id": world.function,
            "created": submit.created,
        }  # fmt: skip
        async with self.dispatch.turn(uep):
            known = await self._store.read(lambda c: tasks.find_submit(c, task_id))
            if known is None:
                await self._store.write(
                    lambda c: tasks.insert_submit(c, group=group, rows=[row], submit=submit, group_changed=False)
                )
            self.dispatch.accepted(uep, 0 if known else 1, task_id)
            await self.dispatch.publish(uep, group, [message])
            self._store.write_later(lambda c: tasks.mark_published(c, task_id))
