"""Results on their way to futures: one thread with an event loop that consumes the task groups' queues.

Where the broker cannot be reached, and once in a long while in any case, the relay is asked over HTTP instead
(`asking`), so that no future depends on one way alone.

A relay that seals hands out a key with the broker's address. Then only what opens with it is believed. Anything
else (a group that stock clients use too has plain results; whoever has the broker may say anything) is a hint, no
more, to ask the relay: it is never unpickled.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from mep.base.errors import MepError
from mep.base.secrets import Secret
from mep.sdk.asking import Asking, in_thread
from mep.sdk.client import Client
from mep.sdk.futures import ComputeFuture
from mep.sdk.http import not_understood
from mep.sdk.outcome import of_message
from mep.sdk.pending import Pending
from mep.serialize import Serializer
from mep.wire.envelope import Result, decode, is_announcement

if TYPE_CHECKING:
    from mep.broker import BrokerConnection, Consumer, Delivery, State
    from mep.wire.seal import Sealer

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}")


class ResultStream:
    """Completes futures by task id. `start`, `track` and `close` may be called from any thread."""

    def __init__(
        self, client: Client, serializer: Callable[[], Serializer], *, amqp_port: int | None, name: str
    ) -> None:
        self.pending = Pending()
        self._client = client
        self._serializer = serializer
        self.amqp_port = amqp_port
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: list[Callable[[], None]] = []  # for the loop, once it runs
        self._closed = False
        # of the loop alone:
        self._url = Secret("")
        self._prefix = ""
        self._key: Secret | None = None
        self._sealers: dict[str, Sealer] = {}  # by group
        self._groups: set[str] = set()
        self._connection: BrokerConnection | None = None
        self._consumers: dict[str, Consumer] = {}
        self._unacked: dict[str, Delivery] = {}  # the last one of each group

    # ---- from any thread ----

    def start(self) -> None:
        """Start the thread, which loads what it needs. Does not connect yet."""
        with self._lock:
            if self._thread is None and not self._closed:
                name = f"mep-results-{self._name}"
                self._thread = threading.Thread(target=self._main, name=name, daemon=True)
                self._thread.start()

    def connect(self) -> None:
        """Begin to connect to the broker, so that the stream is there when the first result is."""
        self.start()
        self._call(lambda: self._wanted.set())

    def track(self, group: str, tasks: Mapping[str, ComputeFuture]) -> None:
        """Complete these futures when their results come. The group's queue must exist by now."""
        for result, completion_t in self.pending.add(tasks):
            self._complete(result, completion_t)
        self.connect()
        self._call(lambda: self._follow(group))

    def close(self, timeout_s: float = 5.0) -> None:
        """Disconnect and end the thread; futures that still wait are not touched."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        self._call(lambda: self._stop.set())
        if thread is not threading.current_thread():
            thread.join(timeout_s)

    def after_fork(self) -> None:
        """In a forked child: there is no thread any more, and the socket is the parent's."""
        self._lock = threading.Lock()
        self.pending.after_fork()
        self._thread, self._loop, self._closed = None, None, True

    def _call(self, function: Callable[[], None]) -> None:
        with self._lock:
            if self._loop is None:
                self._calls.append(function)
                return
            loop = self._loop
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            log.debug("the result stream has ended")

    # ---- in the thread ----

    def _main(self) -> None:
        import mep.wire.seal  # noqa: F401 - loads the crypto library, before the first result is there
        from mep.broker.loop import new_loop  # here, because it loads the AMQP library

        loop = new_loop()
        try:
            loop.run_until_complete(self._run(loop))
        except Exception:
            log.exception("the result stream broke down; results come over HTTP no more")
            raise
        finally:
            with self._lock:
                self._closed = True
            loop.close()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop, self._wanted = asyncio.Event(), asyncio.Event()
        self._asking = Asking(self._client, self.pending, self._serializer, self.streaming, self._refresh_url)
        with self._lock:
            self._loop = loop
            calls, self._calls = self._calls, []
        for function in calls:
            function()
        tasks = [loop.create_task(self._connect()), loop.create_task(self._asking.run())]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connection is not None:
            self._flush_acks()
            await self._connection.close()

    async def _connect(self) -> None:
        from mep.broker import BrokerConnection
        from mep.broker.backoff import Backoff

        await self._wanted.wait()
        backoff = Backoff(0.5, 30.0)
        while not self._url:
            try:
                await self._refresh_url()
            except MepError as error:
                log.warning("%s: no address of the result stream: %s", self._name, error)
                await asyncio.sleep(backoff.next_s())
        self._connection = BrokerConnection(lambda: self._url, name=self._name, on_state=self._on_state)
        self._connection.open()
        for group in list(self._groups):
            self._follow(group)

    async def _refresh_url(self) -> None:
        """Ask for the broker's address and credentials: they may change while we are disconnected."""
        answer: dict[str, Any] = await in_thread(self._client.get_result_amqp_url)
        url, key = answer.get("connection_url"), answer.get("seal_key")
        try:
            address = _with_port(str(url), self.amqp_port)
            good = (
                isinstance(url, str)
                and urlsplit(url).scheme in ("amqp", "amqps")
                and bool(urlsplit(url).port or 1)
            )
        except ValueError:
            good = False
        if not good:
            raise not_understood("the question where results arrive", "it has no AMQP address")
        if key is not None and not (isinstance(key, str) and _KEY.fullmatch(key)):
            raise not_understood("the question where results arrive", "its seal_key is no key")
        self._url = Secret(address)
        self._prefix = str(answer.get("queue_prefix") or "")
        if key is not None:
            self._key = Secret(key)

    def streaming(self) -> bool:
        """Tell whether results of all groups come by the broker now."""
        return bool(self._consumers) and all(consumer.consuming for consumer in self._consumers.values())

    def _on_state(self, state: State) -> None:
        if state.state != "connected":
            self._asking.news()  # give it a moment to come back before asking over HTTP
            self._asking.wake()

    def _follow(self, group: str) -> None:
        self._groups.add(group)
        self._asking.wake()
        if self._connection is not None and group not in self._consumers:
            self._consumers[group] = self._connection.consume(
                self._prefix + group, lambda delivery: self._on_delivery(group, delivery)
            )

    def _on_delivery(self, group: str, delivery: Delivery) -> None:
        self._asking.news()
        content = self._opened(group, delivery.body)
        try:
            message = decode(delivery.body if content is None else content)
        except MepError as error:
            message = None
            if self._key is None:
                log.warning("%s: a message that is no result was put aside: %s", self._name, error)
        if content is None:
            self._asking.hint([message.task_id] if isinstance(message, Result) else None)
        elif isinstance(message, Result) and (delivery.headers.get("high_assurance") or is_announcement(message)):
            self._asking.fetch(message.task_id)  # it does not travel by the broker: the message only says so
        elif isinstance(message, Result):
            timestamp = delivery.properties.timestamp
            self._complete(message, str(timestamp) if timestamp else "")
        else:
            self._consumers[group].reject(delivery)  # not requeued: it would come back for ever
            return
        if not self._unacked:
            asyncio.get_running_loop().call_soon(self._flush_acks)
        self._unacked[group] = delivery

    def _opened(self, group: str, body: bytes) -> bytes | None:
        """Return what the relay has said; None if that was somebody else."""
        if self._key is None:
            return body
        from mep.wire import seal  # here, because it loads the crypto library

        sealer = self._sealers.get(group)
        if sealer is None:
            sealer = self._sealers[group] = seal.Sealer(self._key, seal.DELIVERY, group)
        try:
            return sealer.open(body)[1]
        except seal.SealError as error:
            log.debug("%s: not from the relay: %s", self._name, error)
            return None

    def _flush_acks(self) -> None:
        """Acknowledge at once all that came in one read."""
        unacked, self._unacked = self._unacked, {}
        for group, delivery in unacked.items():
            self._consumers[group].ack(delivery, multiple=True)

    def _complete(self, result: Result, completion_t: str) -> None:
        if self.pending.arrived(result, completion_t):
            self.pending.settle(result.task_id, of_message(result, self._serializer(), completion_t))


def _with_port(url: str, port: int | None) -> str:
    if port is None:
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    bare = host if host.endswith("]") else host.rpartition(":")[0] or host
    return urlunsplit(parts._replace(netloc=f"{user}{at}{bare}:{port}"))
