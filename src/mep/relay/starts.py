"""Start commands: sent, sent again a bounded number of times, held while the endpoint is away, given up."""

from __future__ import annotations

import asyncio
import logging
import time

from mep.base.codes import Code
from mep.base.errors import MepError
from mep.base.ids import new_id
from mep.relay import commands, metrics
from mep.relay.amqp import RelayBroker
from mep.relay.auth.keys import Keys
from mep.relay.credentials import Credentials
from mep.relay.endings import Endings
from mep.relay.fleet import STARTING, STOPPED, UP, WAITING, Fleet, Uep, disarm
from mep.relay.seals import Seals
from mep.relay.store import accounts, ueps
from mep.wire import sealed
from mep.wire.sealed import SealedCommand

log = logging.getLogger(__name__)

_BROKER_AWAY_S = 1.0
_SAY_AGAIN_S = 5.0
_DIED_AGAIN_S = 0.3  # before one that was killed while it started is started again; doubles with each try


class Starts:
    """Brings user endpoints up."""

    def __init__(
        self,
        fleet: Fleet,
        endings: Endings,
        broker: RelayBroker,
        credentials: Credentials,
        keys: Keys,
        seals: Seals,
    ) -> None:
        self._fleet, self._endings, self._broker = fleet, endings, broker
        self._credentials, self._keys, self._seals = credentials, keys, seals

    def begin(self, uep: Uep, *, request_id: str = "") -> None:
        """See to it that `uep` comes up: send a start command unless it is up or being started. `request_id` joins
        the logs of both sides with what the user was told."""
        if uep.state in (UP, STARTING) or not uep.core.uses_commands:
            return
        if not uep.core.online:
            self.hold(uep)
        elif uep.tries >= self._fleet.settings.start_tries:
            self._fleet.spawn(self._give_up(uep), name=f"give up {uep.id}")
        else:
            self._fleet.set_state(uep, STARTING)
            self._send(uep, request_id)

    def hold(self, uep: Uep) -> None:
        """Its endpoint is away: the start waits for it, and is not counted as a failure."""
        disarm(uep)
        uep.tries = 0
        self._fleet.set_state(uep, WAITING)

    def failed(self, uep: Uep, code: str, text: str) -> None:
        """The endpoint said that it could not start it."""
        metrics.START_FAILURES.labels(code or "unknown").inc()
        disarm(uep)
        self._fleet.set_state(uep, STOPPED)
        if code == Code.ENDPOINT_STOPPING:
            self.hold(uep)
        elif code in (Code.COMMAND_STALE, Code.COMMAND_REPLAYED) and uep.tries < self._fleet.settings.start_tries:
            self.begin(uep)  # it waited too long, or was delivered twice by a gate that died; a fresh one may do
        elif code == Code.UEP_DIED and uep.tries < self._fleet.settings.start_tries:
            # killed while it started: nobody refused anything, and its tasks have not begun
            self._fleet.arm(uep, _DIED_AGAIN_S * 2**uep.tries, self.begin)
        elif code == Code.COMMAND_BAD_SIGNATURE and self._older_key(uep):
            uep.keys_refused += 1  # what it was told at its last registration may not have reached it
            self.begin(uep)
        else:
            uep.tries = uep.keys_refused = 0
            # what was accepted after this moment deserves a start of its own
            work = self._endings.fail(uep, code or Code.SPAWN_FAILED, text, purge=True)
            self._fleet.spawn(work, name=f"failed start of {uep.id}")

    async def evict(self, uep: Uep) -> None:
        """Take its broker account away, so that it ends; the next start command brings a new one."""
        log.warning("user endpoint %s: taking its broker account away", uep.id)
        generation = await self._fleet.store.write(lambda c: ueps.next_generation(c, uep.id))
        uep.record = _with_generation(uep.record, generation)
        await self._credentials.revoke(f"uep.{uep.id}")

    async def rekey(self, uep: Uep) -> None:
        """Its endpoint has other keys now, or none: another program, or one that was locked out. What was sealed
        before opens for nobody any more, so its tasks end here, and one that still runs has to go."""
        text = "The endpoint was registered anew in another form while this task was with it."
        await self._endings.fail(uep, Code.TASK_LOST, text, purge=True)
        if uep.state in (UP, STARTING):
            await self.evict(uep)
            disarm(uep)
            self._fleet.set_state(uep, STOPPED)

    async def retire(self, uep: Uep) -> None:
        """Remove what the broker has of a user endpoint whose endpoint is gone."""
        disarm(uep)
        if uep.core.uses_commands:
            await self._credentials.revoke(f"uep.{uep.id}")
        await self._broker.delete_uep_queues(uep.id)
        await self._fleet.store.write(lambda c: ueps.remove(c, uep.id))

    # ---- inside ----

    def _older_key(self, uep: Uep) -> bool:
        """Tell whether there is a key left that its endpoint has not refused, and a try."""
        older = self._keys.before(uep.core.start_key, uep.keys_refused + 1)
        return older is not None and uep.tries < self._fleet.settings.start_tries

    def _send(self, uep: Uep, request_id: str = "") -> None:
        uep.tries += 1
        self._fleet.arm(uep, self._fleet.settings.start_timeout_s, self._overdue)
        request_id = request_id or new_id()
        self._fleet.spawn(self._command(uep, request_id), name=f"start {uep.id}")
        asyncio.get_running_loop().call_later(_SAY_AGAIN_S, self._say_again, uep, request_id)

    def _say_again(self, uep: Uep, request_id: str) -> None:
        """A stock endpoint silently drops a command while the process of a failed start before it is not reaped;
        one that is at work on the start takes no harm from a second command."""
        if uep.state == STARTING and uep.requests and uep.requests[-1] == request_id:
            # by a number of its own: one that was obeyed, and whose end nobody told us, would be refused
            self._fleet.spawn(self._command(uep, new_id()), name=f"start {uep.id} again")

    async def _command(self, uep: Uep, request_id: str) -> None:
        record = uep.record
        uep.requests.append(request_id)
        try:
            identity = await self._fleet.store.read(lambda c: accounts.find_identity(c, record.identity_id))
            if identity is None:
                raise LookupError(record.identity_id)
            creds = await self._credentials.of_uep(record.id, record.generation)
            seals = uep.core.seals
            key = self._seals.uep_key(uep.id, seals) if seals else None
            kid = self._keys.before(uep.core.start_key, uep.keys_refused) or ""
            body, token = commands.start_command(
                record, identity, creds, self._keys, kid=kid, seal_key=key, request_id=request_id
            )
            if seals:
                content = sealed.encode(SealedCommand(token, body))
                body, token = self._seals.commands(record.endpoint_id, seals).seal(content), ""
            await self._broker.publish_command(record.endpoint_id, body, token, expires_s=commands.VALID_S)
        except MepError as error:
            log.warning("start command for %s not sent: %s", uep.id, error.for_admin())
            if uep.state == STARTING:
                uep.tries -= 1
                self._fleet.arm(uep, _BROKER_AWAY_S, self._send)
            return
        metrics.COMMANDS.inc()
        log.info(
            "request %s: start command %d for user endpoint %s of %s on %s",
            request_id, uep.tries, uep.id, identity.username, record.endpoint_id,
        )  # fmt: skip

    def _overdue(self, uep: Uep) -> None:
        """No sign of life after a start command."""
        if uep.state != STARTING:
            return
        if not uep.open:
            self._fleet.set_state(uep, STOPPED)
        elif uep.tries < self._fleet.settings.start_tries:
            log.warning("user endpoint %s: no sign of life after start command %d", uep.id, uep.tries)
            self._send(uep)
        else:
            self._fleet.set_state(uep, STOPPED)
            uep.tries = 0
            seconds = self._fleet.settings.start_timeout_s * self._fleet.settings.start_tries
            text = f"The endpoint did not start a user endpoint for you within {seconds:.0f} s."
            self._fleet.spawn(self._endings.fail(uep, Code.START_TIMEOUT, text, purge=True), name="start timeout")

    async def _give_up(self, uep: Uep) -> None:
        """It came up, or seemed to, as often as allowed, and finished nothing."""
        tries, uep.tries = uep.tries, 0
        text = f"Your user endpoint ended {tries} times in a row without finishing this task."
        await self._endings.fail(uep, Code.UEP_DIED, text, purge=True, before=time.time())


def _with_generation(record: ueps.UepRecord, generation: int) -> ueps.UepRecord:
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    return ueps.UepRecord(**{**values, "generation": generation})
