"""The relay, put together: what needs only the database at once, what needs the broker once that is there."""

from __future__ import annotations

import asyncio
import logging
import time

from mep.base.errors import MepError
from mep.broker import BatchConsumer, State
from mep.broker.backoff import Backoff
from mep.relay import metrics
from mep.relay.amqp import RelayBroker
from mep.relay.auth.bearer import Authenticator
from mep.relay.auth.keys import Keys
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.brokeradmin import BrokerAdmin
from mep.relay.credentials import Credentials
from mep.relay.directory import Directory
from mep.relay.dispatch import Dispatch
from mep.relay.endings import Endings, Expiry
from mep.relay.errors import unavailable
from mep.relay.fleet import Fleet
from mep.relay.liveness import Liveness
from mep.relay.opening import Opening
from mep.relay.rabbit import PrivateRabbit
from mep.relay.ratelimit import RateLimit
from mep.relay.registration import Registration
from mep.relay.repeats import Repeats
from mep.relay.results import Results
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.starts import Starts
from mep.relay.store import Store, accounts, tasks
from mep.relay.store.engine import default_url
from mep.relay.submit import Submitter

log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 3600.0


class Working:
    """The parts that need the broker."""

    def __init__(self, relay: Relay, broker: RelayBroker, admin: BrokerAdmin) -> None:
        store, settings, keys = relay.store, relay.settings, relay.keys
        self.broker, self.admin = broker, admin
        self.credentials = Credentials(broker, admin, keys.broker_secret)
        self.seals = Seals(keys.broker_secret)
        self.fleet = Fleet(store, settings)
        self.opening = Opening(self.fleet, self.seals)
        self.results = Results(
            store,
            broker,
            on_report=lambda sender, report: self.liveness.on_report(sender, report),
            on_settled=self._on_settled,
            high_assurance=self.fleet.high_assurance,
            seals=self.seals,
            opening=self.opening,
        )
        self.endings = Endings(self.fleet, self.results, broker)
        self.starts = Starts(self.fleet, self.endings, broker, self.credentials, keys, self.seals)
        self.liveness = Liveness(self.fleet, self.starts, self.endings, broker, self.opening)
        self.expiry = Expiry(self.fleet, self.endings)
        self.dispatch = Dispatch(
            store,
            broker,
            self.credentials,
            self.fleet,
            self.starts,
            self.liveness,
            self.expiry,
            self.seals,
            settings,
        )
        self.submitter = Submitter(
            store, self.fleet, relay.directory, self.dispatch, self.results, self.seals, settings
        )
        self.registration = Registration(
            store, relay.directory, self.credentials, self.fleet, self.liveness, keys, self.seals, settings
        )
        self._consumers: list[BatchConsumer] = []

    async def start(self) -> None:
        """Take over from the last relay, then consume."""
        await self.fleet.load()
        await self.dispatch.flush()
        self._consumers = [
            self.broker.consume_results(self.results.on_batch),
            self.broker.consume_heartbeats(self.liveness.on_batch),
        ]
        for consumer in self._consumers:
            await consumer.wait_consuming()
        self.liveness.resume()
        await self.expiry.load()

    async def close(self) -> None:
        self.expiry.close()
        for consumer in self._consumers:
            await consumer.close()
        await self.fleet.close()

    def _on_settled(self, uep_id: str, count: int) -> None:
        uep = self.fleet.ueps.get(uep_id)
        if uep is not None:
            uep.open = max(0, uep.open - count)
            uep.tries = 0
            uep.idle_since = 0.0


class Relay:
    """One relay process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.data_dir)
        self.store = Store(settings.database_url.reveal() or default_url(settings.data_dir))
        self.authenticator = Authenticator(self.store)
        self.limit = RateLimit(settings.requests_per_s)
        self.directory = Directory(self.store)
        self.repeats = Repeats(self.store, settings)
        self.broker: RelayBroker | None = None
        self.started = time.time()
        self._working: Working | None = None
        self._why_not = "the broker is starting"
        self._private: PrivateRabbit | None = None
        self._starting: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self.fatal: MepError | None = None

    @property
    def working(self) -> Working:
        """The parts that need the broker; HttpError 503 before it is there for the first time."""
        if self._working is None:
            raise unavailable(f"The relay is not ready: {self._why_not}.")
        return self._working

    async def why_not_ready(self) -> str:
        """Return why the relay cannot serve now, or "" if it can."""
        if self._working is None or self.broker is None:
            return self._why_not
        if self.broker.state.state != "connected":
            return (
                f"broker {self.broker.state.state} since {self.broker.state.since:.0f}: {self.broker.state.detail}"
            )
        try:
            await self.store.check()
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is 503
            return f"database: {error}"
        return ""

    def start(self) -> None:
        """Begin to bring up the broker side; returns at once, so that /healthz can say how it goes."""
        self._starting = asyncio.get_running_loop().create_task(self._bring_up(), name="relay start")
        self._tidy()

    async def close(self) -> None:
        """Finish what is under way, then end."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._working is not None:
            await self._working.close()
            self._working.admin.close()
        if self.broker is not None:
            await self.broker.close()
        self.store.close()
        if self._private is not None:
            await self._private.stop()

    # ---- inside ----

    async def _bring_up(self) -> None:
        """Try until it works: an external broker may come later than we do."""
        backoff = Backoff(0.5, 10.0)
        while True:
            try:
                await self._bring_up_once()
            except MepError as error:
                self._why_not = error.for_admin()
                log.error("not ready: %s", self._why_not)
            except Exception as error:
                self._why_not = f"{type(error).__name__}: {error}"
                log.exception("not ready")
            else:
                return
            await asyncio.sleep(backoff.next_s())

    async def _bring_up_once(self) -> None:
        url = self.settings.broker_url.reveal()
        if url:
            address = BrokerAddress.of_url(
                url,
                management_url=self.settings.broker_management_url.reveal(),
                client_host=self.settings.broker_client_host,
            )
        else:
            if self._private is None:
                private = PrivateRabbit(self.settings.data_dir)
                await private.start()
                self._private = private
            address = self._private.address
        admin = BrokerAdmin(address)
        broker = RelayBroker(address, on_state=self._on_broker)
        try:
            await admin.check()
            await broker.open()
            working = Working(self, broker, admin)
            unpublished = await self.repeats.load()
            if unpublished:
                log.warning("%d submits of before wait for their callers to repeat them", len(unpublished))
            await working.start()
        except BaseException:
            admin.close()
            await broker.close(drain_s=0)
            raise
        self.broker, self._working = broker, working
        log.info("ready")

    def _on_broker(self, state: State) -> None:
        metrics.BROKER_UP.set(state.state == "connected")
        if state.state == "connected" and self._working is not None:
            self._working.credentials.forget_made()

    def _tidy(self) -> None:
        """Forget what nobody can ask for any more; hourly, in the writer's thread."""
        self._housekeeping = asyncio.get_running_loop().call_later(_HOUSEKEEPING_S, self._tidy)
        now = time.time()
        self.repeats.drop_old()
        self.store.write_later(
            lambda c: tasks.drop_old(
                c,
                done_before=now - self.settings.result_ttl_s,
                submits_before=now - self.settings.idempotency_ttl_s,
            )
        )
        self.store.write_later(lambda c: accounts.drop_expired_tokens(c, now - 86_400.0))
