"""The gate's line to the broker: start commands come in, heartbeats and notices go out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mep.base.codes import Code
from mep.base.errors import MepError
from mep.base.secrets import Secret
from mep.base.seldom import Seldom
from mep.broker import BrokerConnection, Consumer, Delivery, State
from mep.daemon import commands, notices
from mep.daemon.notices import Notices
from mep.wire import seal
from mep.wire.command import QueueInfo
from mep.wire.envelope import StatusReport
from mep.wire.privsep import Decision, Dismissed, Standing, Start, UepEvent, cap_text
from mep.wire.rest import RegistrationAnswer
from mep.wire.seal import Sealer

log = logging.getLogger(__name__)

_PREFETCH: Final = 256  # commands that may wait for the monitor's decision at once
_GOODBYE_S: Final = 2.0
#: Refusals nobody is told about: the relay did not ask for them.
_SILENT: Final = (Code.COMMAND_REPLAYED.value,)

Ask = Callable[[Start, int], None]


class CommandLine:
    """Consumes the command queue, publishes about the endpoint and its user endpoints, over reconnects.

    `ask` puts a command before the monitor; `decided` brings the answer, and only then it is acknowledged.
    `dismissed` hears of a command that is refused here. `tell_state` hears how we stand with the broker
    ("connected" means: consuming).
    """

    def __init__(
        self,
        answer: RegistrationAnswer,
        *,
        name: str,
        amqp_port: int | None,
        heartbeat: StatusReport,
        period_s: float,
        ask: Ask,
        dismissed: Callable[[Dismissed], None],
        tell_state: Callable[[Standing, float, str], None],
        on_refused: Callable[[], None],
    ) -> None:
        self._endpoint_id, self._amqp_port = answer.endpoint_id, amqp_port
        self._heartbeat, self._period_s = heartbeat, period_s
        self._ask, self._dismissed, self._tell_state, self._on_refused = ask, dismissed, tell_state, on_refused
        self._pending: dict[str, tuple[Delivery, str]] = {}  # by request: its delivery, its user endpoint
        self._beating: asyncio.TimerHandle | None = None
        self._commands_url, self._beats_url = self._urls(answer)
        self._in = BrokerConnection(lambda: self._commands_url, name=name, on_state=self._on_state)
        # One connection serves both ways, unless the service gives two.
        shared = self._commands_url == self._beats_url
        self._out = self._in if shared else BrokerConnection(lambda: self._beats_url, name=f"{name} heartbeats")
        self._opener, sealer = _sealers(answer)
        self._seldom = Seldom(log)
        self._notices = Notices(
            self._out.publisher(), answer.heartbeat_queue_info, ours=answer.mep is not None, sealer=sealer
        )
        self._consumer: Consumer = self._in.consume(
            answer.command_queue_info.queue, self._on_delivery, prefetch=_PREFETCH
        )

    def open(self) -> None:
        """Begin to connect; returns at once."""
        self._in.open()
        if self._out is not self._in:
            self._out.open()
        self._beat()

    def renewed(self, answer: RegistrationAnswer) -> None:
        """The relay has answered a registration anew: its credentials count from the next connection on."""
        before = (self._commands_url, self._beats_url)
        self._commands_url, self._beats_url = self._urls(answer)
        self._opener, sealer = _sealers(answer)
        self._notices.now_via(answer.heartbeat_queue_info, ours=answer.mep is not None, sealer=sealer)
        if before != (self._commands_url, self._beats_url):
            self._in.reconnect()
            if self._out is not self._in:
                self._out.reconnect()

    async def close(self, last: StatusReport | None) -> None:
        """Take no more commands, say `last`, and hang up once all is confirmed, or soon."""
        if self._beating is not None:
            self._beating.cancel()
        self._consumer.cancel()
        if last is not None and self._out.state.state == "connected":
            self._notices.about_endpoint(last).add_done_callback(_log_failure)
        await self._out.close(drain_s=_GOODBYE_S)
        if self._out is not self._in:
            await self._in.close()

    # ---- commands ----

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            read = commands.read(
                delivery,
                endpoint_id=self._endpoint_id,
                now=time.time(),
                taken=self._pending,
                sealer=self._opener,
            )
        except commands.Unsealed as error:
            self._seldom.warn("a message on the command queue is dropped: %s", error.for_admin())
            self._consumer.ack(delivery)
            return
        except commands.Dropped as error:
            log.warning("a message on the command queue is dropped: %s", error.for_admin())
            self._consumer.ack(delivery)
            return
        except commands.Refused as refused:
            log.warning("a start command for %s is refused: %s", refused.uep_id, refused.error.for_admin())
            self._notices.remember(refused.uep_id, refused.reply_to)
            code = refused.error.code.value
            self._dismissed(
                Dismissed(request_id=refused.request_id, code=code, text=cap_text(refused.error.admin_text))
            )
            self._tell(refused.uep_id, refused.request_id, code, _with_step(refused.error))
            self._consumer.ack(delivery)
            return
        self._notices.remember(read.uep_id, read.reply_to)
        self._pending[read.request_id] = (delivery, read.uep_id)
        self._ask(read.start, read.payload_fd())

    def decided(self, decision: Decision) -> None:
        """The monitor has decided: acknowledge the command, and tell the relay of a refusal."""
        delivery, uep_id = self._pending.pop(decision.request_id, (None, ""))
        if delivery is None:
            return
        self._consumer.ack(delivery)
        if decision.verdict == "refused" and decision.code not in _SILENT:
            self._tell(uep_id, decision.request_id, decision.code, decision.user_text)

    def tell_failed(self, event: UepEvent) -> None:
        """Tell the relay that a user endpoint did not come to be."""
        self._tell(event.uep_id, event.request_id, event.code, event.user_text)

    def tell_ended(self, event: UepEvent) -> None:
        """Tell the relay that a user endpoint is gone."""
        self._notices.about_uep(
            notices.ended(event.uep_id, code=event.code, text=event.user_text, period_s=self._period_s)
        )

    def _tell(self, uep_id: str, request_id: str, code: str, text: str) -> None:
        self._notices.about_uep(
            notices.start_failed(uep_id, request_id=request_id, code=code, text=text, period_s=self._period_s)
        )

    # ---- signs of life ----

    def _beat(self) -> None:
        """Once per period; nothing is kept for later while the broker is away."""
        if self._out.state.state == "connected":
            self._notices.about_endpoint(self._heartbeat).add_done_callback(_log_failure)
        self._beating = asyncio.get_running_loop().call_later(self._period_s, self._beat)

    def _on_state(self, state: State) -> None:
        if state.state == "connected":
            asyncio.get_running_loop().create_task(self._announce()).add_done_callback(_log_failure)
            return
        self._pending.clear()  # the broker delivers again what was not acknowledged
        self._tell_state(state.state, state.since, state.detail)
        if state.state == "refused":
            self._on_refused()

    async def _announce(self) -> None:
        """Connected: alive at once, and up as soon as commands come."""
        if self._beating is not None:
            self._beating.cancel()
        self._beat()
        await self._consumer.wait_consuming()
        self._tell_state("connected", time.time(), "")

    def _urls(self, answer: RegistrationAnswer) -> tuple[Secret, Secret]:
        infos = (answer.command_queue_info, answer.heartbeat_queue_info)
        first, second = (self._with_port(info) for info in infos)
        return first, second

    def _with_port(self, info: QueueInfo) -> Secret:
        if self._amqp_port is None:
            return info.connection_url
        parts = urlsplit(info.connection_url.reveal())
        user = parts.netloc.rpartition("@")[0]
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
        netloc = f"{user}@{host}:{self._amqp_port}" if user else f"{host}:{self._amqp_port}"
        return Secret(urlunsplit(parts._replace(netloc=netloc)))


def _sealers(answer: RegistrationAnswer) -> tuple[Sealer | None, Sealer | None]:
    """Return what opens commands and what seals notices; None with a service that does not seal."""
    key = answer.mep.seal_key if answer.mep is not None else None
    if not isinstance(key, Secret):
        return None, None
    return Sealer(key, seal.COMMAND, answer.endpoint_id), Sealer(key, seal.NOTICE, answer.endpoint_id)


def _with_step(error: MepError) -> str:
    return error.user_text + (f" {error.step}" if error.step else "")


def _log_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.warning("the relay could not be told: %s", done.exception())
