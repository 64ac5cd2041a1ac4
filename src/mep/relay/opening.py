"""What endpoints and user endpoints say over the broker, before it is believed: sealed where they seal, and new.

Whoever has the broker can say anything under any name, and again what was said before. A result that is said again
changes nothing; a report could: "ended" starts a user endpoint anew. So each channel's reports have an order, and
what is not newer than the newest one is ignored, over restarts of the relay too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection

from mep.base.seldom import Seldom
from mep.relay.amqp import Incoming
from mep.relay.fleet import Fleet, Newest
from mep.relay.seals import Seals
from mep.relay.store import endpoints, ueps
from mep.wire.seal import Sealer, SealError, is_sealed

log = logging.getLogger(__name__)

Save = Callable[[Connection, str, float], None]


class Opening:
    """Opens results and reports. None: the message is dropped, which is said in the log, seldom."""

    def __init__(self, fleet: Fleet, seals: Seals) -> None:
        self._fleet, self._seals = fleet, seals
        self._seldom, self._seldom_old = Seldom(log), Seldom(log)

    async def result(self, message: Incoming) -> Incoming | None:
        """Return the message without its seal."""
        seals = await self._fleet.seals_of(message.sender)
        if not seals and not is_sealed(message.body):
            return message
        try:
            if not seals:
                raise SealError("it is sealed, and its sender does not seal")
            _, content = self._seals.results(message.sender, seals).open(message.body)
        except SealError as error:
            self._dropped("a result", message, error)
            return None
        return replace(message, body=content)

    async def report(self, message: Incoming) -> Incoming | None:
        """Return the message without its seal, if it is newer than all before it."""
        channel = await self._channel(message.sender)
        if channel is None and not is_sealed(message.body):
            return message
        try:
            if channel is None:
                raise SealError("it is sealed, and its sender does not seal")
            sealer, newest, save = channel
            stamp, content = sealer.open(message.body)
        except SealError as error:
            self._dropped("a report", message, error)
            return None
        if not newest.advances(stamp, time.time()):
            if not message.redelivered:
                self._seldom_old.warn("ignored a report of %s: there was a newer one", message.sender)
            return None
        issued = newest.issued
        self._fleet.store.write_later(lambda c: save(c, message.sender, issued))
        return replace(message, body=content)

    # ---- inside ----

    async def _channel(self, sender: str) -> tuple[Sealer, Newest, Save] | None:
        """Return how the sender's reports are opened, and the newest of them; None: it does not seal."""
        core = self._fleet.cores.get(sender)
        if core is not None:
            sealer = self._seals.notices(sender, core.seals) if core.seals else None
            return (sealer, core.stamped, endpoints.stamped) if sealer is not None else None
        seals = await self._fleet.seals_of(sender)
        uep = self._fleet.ueps.get(sender) if seals else None
        return (self._seals.reports(sender, seals), uep.stamped, ueps.stamped) if uep is not None else None

    def _dropped(self, what: str, message: Incoming, error: SealError) -> None:
        self._seldom.warn("dropped what claims to be %s of %s: %s", what, message.sender, error)
