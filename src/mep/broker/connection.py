"""One AMQP connection that comes back by itself, and tells how it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import (
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from mep.base.codes import Code
from mep.base.errors import ServiceError
from mep.base.secrets import Secret, without_password
from mep.broker.backoff import Backoff
from mep.broker.channel import Channel
from mep.broker.coalesce import CoalescingConnection
from mep.broker.consumer import Consumer, Delivery
from mep.broker.publisher import Publisher

log = logging.getLogger(__name__)

# pika logs each failed try on several lines; we say once what changed
logging.getLogger("pika").addHandler(logging.NullHandler())
logging.getLogger("pika").propagate = False

StateName = Literal["connected", "connecting", "refused"]
_CLOSE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class State:
    """connected, connecting (away, trying again) or refused (credentials), since when (Unix seconds) and why.

    connected with a detail: the broker is short of memory or disk and takes no messages for now.
    """

    state: StateName
    since: float
    detail: str = ""


class _Attachment(Protocol):
    on_gone: Callable[[Any], None]

    def attach(self, connection: AsyncioConnection) -> None: ...
    def detach(self) -> None: ...
    def abandon(self) -> None: ...
    async def drain(self) -> None: ...


_A = TypeVar("_A", bound=_Attachment)


class BrokerConnection:
    """A connection to `url` (or to what `url()` returns at each try: credentials may be refreshed).

    Consumers and publishers made from it survive reconnects: consumers consume again, publishers send again
    what was not confirmed. `on_state` hears each change once; each change is one log line. `prepare` is awaited
    on each new connection before anything is sent or consumed on it: there the topology is declared.
    """

    def __init__(
        self,
        url: Secret | Callable[[], Secret],
        *,
        name: str,
        on_state: Callable[[State], None] | None = None,
        prepare: Callable[[Channel], Awaitable[None]] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url if callable(url) else lambda: url
        self.name = name
        self._on_state = on_state
        self._prepare = prepare
        self._backoff = backoff or Backoff()
        self._attachments: list[_Attachment] = []
        self._connection: AsyncioConnection | None = None  # from the first try on
        self._where = ""
        self._preparing: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._closing = False
        self._ended: asyncio.Future[None] | None = None
        self._opened = asyncio.Event()
        self.state = State("connecting", time.time())

    # ---- use ----

    def publisher(self) -> Publisher:
        """Return a publisher with a channel of its own."""
        return self._add(Publisher(self.name))

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int = 0,
        exclusive: bool = False,
        on_refused: Callable[[str], None] | None = None,
    ) -> Consumer:
        """Consume `queue` for as long as the connection is wanted; see Consumer."""
        return self._add(
            Consumer(
                queue,
                on_delivery,
                prefetch=prefetch,
                exclusive=exclusive,
                on_refused=on_refused,
                name=self.name,
            )
        )

    async def channel(self) -> Channel:
        """Return a new channel for declarations; it dies with the connection."""
        await self.wait_open()
        while self._connection is None or not self._connection.is_open:  # lost since we were woken
            await asyncio.sleep(0)
            await self.wait_open()
        channel = Channel(self._connection)
        await channel.wait_open()
        return channel

    def open(self) -> None:
        """Begin to connect; returns at once. Must be called on the running loop's thread."""
        self._connect()

    async def wait_open(self, timeout_s: float | None = None) -> None:
        """Return once connected; ServiceError(BROKER_UNREACHABLE or BROKER_REFUSED) after `timeout_s`."""
        try:
            await asyncio.wait_for(self._opened.wait(), timeout_s)
        except TimeoutError:
            code = Code.BROKER_REFUSED if self.state.state == "refused" else Code.BROKER_UNREACHABLE
            raise ServiceError(
                code,
                f"No connection to the broker after {timeout_s} s.",
                admin_text=f"{self.name}: no connection to the broker after {timeout_s} s: {self.state.detail}",
            ) from None
        if self._closing:
            raise ServiceError(Code.BROKER_UNREACHABLE, "The connection to the broker is closed.")

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Wait up to `drain_s` for outstanding confirms, then close for good. What is not out then, fails."""
        if drain_s and not self._closing:
            try:
                await asyncio.wait_for(asyncio.gather(*(a.drain() for a in self._attachments)), drain_s)
            except TimeoutError:
                log.warning("%s: closing with unconfirmed messages", self.name)
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._preparing is not None:
            self._preparing.cancel()
        if self._connection is not None:
            self._ended = asyncio.get_running_loop().create_future()
            if not self._connection.is_closing:
                self._connection.close()
            await asyncio.wait((self._ended,), timeout=_CLOSE_TIMEOUT_S)
            if self._connection is not None:  # frozen or cut off: nobody answers our goodbye
                self._connection._adapter_disconnect_stream()
                await asyncio.wait((self._ended,), timeout=_CLOSE_TIMEOUT_S)
        for attachment in list(self._attachments):
            attachment.abandon()
        self._opened.set()  # whoever waits for it hears that it is closed

    def reconnect(self) -> None:
        """Drop the connection and connect again with fresh credentials."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    # ---- inside ----

    def _add(self, attachment: _A) -> _A:
        self._attachments.append(attachment)
        attachment.on_gone = self._attachments.remove
        if self._opened.is_set() and self._connection is not None and self._connection.is_open:
            attachment.attach(self._connection)
        return attachment

    def _connect(self) -> None:
        self._retry = None
        url = self._url().reveal()
        try:
            parameters = pika.URLParameters(url)
        except Exception as error:  # noqa: BLE001 - pika raises many kinds for a bad URL
            self._lost("connecting", f"bad broker URL ({type(error).__name__})")
            return
        parameters.client_properties = {"connection_name": self.name}
        self._where = without_password(url).partition("?")[0]
        self._connection = CoalescingConnection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_close,
            custom_ioloop=asyncio.get_running_loop(),
        )

    def _on_open(self, connection: AsyncioConnection) -> None:
        if self._closing:
            connection.close()
        elif self._prepare is None:
            self._begin(connection)
        else:
            self._preparing = asyncio.get_running_loop().create_task(self._run_prepare(connection, self._prepare))

    async def _run_prepare(
        self, connection: AsyncioConnection, prepare: Callable[[Channel], Awaitable[None]]
    ) -> None:
        try:
            channel = Channel(connection)
            await channel.wait_open()
            await prepare(channel)
        except ServiceError as error:
            if connection.is_open:
                log.error("%s: cannot prepare the broker: %s", self.name, error.for_admin())
                connection.close()
        else:
            if connection.is_open:
                self._begin(connection)
        finally:
            self._preparing = None

    def _begin(self, connection: AsyncioConnection) -> None:
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._backoff.reset()
        self._opened.set()
        self._become("connected", "")
        for attachment in list(self._attachments):
            attachment.attach(connection)

    def _on_blocked(self, _connection: AsyncioConnection, frame: Any) -> None:
        reason = frame.method.reason
        text = f"the broker takes no messages ({reason.decode() if isinstance(reason, bytes) else reason})"
        self._tell(State("connected", time.time(), text), logging.WARNING)

    def _on_unblocked(self, _connection: AsyncioConnection, _frame: Any) -> None:
        self._tell(State("connected", time.time(), ""), logging.INFO)

    def _on_open_error(self, _connection: AsyncioConnection, error: BaseException | str) -> None:
        cause = _root_cause(error)
        refused = isinstance(cause, ProbableAuthenticationError | ProbableAccessDeniedError)
        if isinstance(cause, ConnectionClosedByBroker):
            refused = cause.reply_code in (403, 530)
        self._gone()
        self._lost("refused" if refused else "connecting", f"{self._where}: {_text_of(cause)}")

    def _on_close(self, _connection: AsyncioConnection, reason: BaseException) -> None:
        self._opened.clear()
        for attachment in list(self._attachments):
            attachment.detach()
        self._gone()
        self._lost("connecting", f"{self._where}: {_text_of(reason)}")

    def _gone(self) -> None:
        self._connection = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _lost(self, state: StateName, detail: str) -> None:
        if self._closing:
            return
        self._become(state, detail)
        delay_s = self._backoff.next_s()
        self._retry = asyncio.get_running_loop().call_later(delay_s, self._connect)

    def _become(self, state: StateName, detail: str) -> None:
        if state == self.state.state and (self.state.detail or not detail):
            return
        self._tell(State(state, time.time(), detail), logging.INFO if state == "connected" else logging.WARNING)

    def _tell(self, state: State, level: int) -> None:
        self.state = state
        log.log(level, "%s: broker %s%s", self.name, state.state, f" ({state.detail})" if state.detail else "")
        if self._on_state is not None:
            self._on_state(state)


def _root_cause(error: BaseException | str) -> BaseException | str:
    """pika wraps what happened, some layers deep: in `exceptions`, `exception` or `args`; return the innermost."""
    while isinstance(error, BaseException):
        several = getattr(error, "exceptions", None)
        inner = several[-1] if several else getattr(error, "exception", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return error
        error = inner
    return error


def _text_of(error: BaseException | str) -> str:
    text = getattr(error, "reply_text", "") or getattr(error, "strerror", "")
    return (text or f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error)[:300]
