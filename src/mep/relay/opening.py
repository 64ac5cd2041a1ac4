"""What endpoints and user endpoints say over the broker, before it is believed: sealed where they seal, and new.

Whoever has the broker can say anything under any name, and again what was said before. A result that is said again
changes nothing; a report could: "ended" starts a user endpoint anew. So each channel's reports have an order, and
what is not newer than the newest one is ignored, over restarts of the relay too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mep.base.seldom import Seldom
from mep.relay.amqp import Incoming
from mep.relay.fleet import Fleet, Newest
from mep.relay.seals import Seals
from mep.relay.store import endpoints, ueps
from mep.wire.seal import Sealer, SealError, Stamp, is_sealed

log = logging.getLogger(__name__)

#: From a sender to what opens its messages, and the newest of them where that counts; None: it does not seal.
Channel = Callable[[str], Awaitable[tuple[Sealer, Newest | None] | None]]


class Opening:
    """Opens results and reports. None: the message is dropped, which is said in the log, seldom."""

    def __init__(self, fleet: Fleet, seals: Seals) -> None:
        self._fleet, self._seals = fleet, seals
        self._seldom, self._seldom_old = Seldom(log), Seldom(log)

    async def result(self, message: Incoming) -> Incoming | None:
        """Return the message without its seal."""
        try:
            opened = await self._open(message, self._results_channel)
        except SealError as error:
            self._seldom.warn("dropped what claims to be a result of %s: %s", message.sender, error)
            return None
        return message if opened is None else replace(message, body=opened[2])

    async def report(self, message: Incoming) -> Incoming | None:
        """Return the message without its seal, if it is newer than all before it."""
        try:
            opened = await self._open(message, self._reports_channel)
        except SealError as error:
            self._seldom.warn("dropped what claims to be a report of %s: %s", message.sender, error)
            return None
        if opened is None:
            return message
        newest, stamp, content = opened
        assert newest is not None
        if not newest.advances(stamp, time.time()):
            if not message.redelivered:
                self._seldom_old.warn("ignored a report of %s: there was a newer one", message.sender)
            return None
        save = endpoints.stamped if message.sender in self._fleet.cores else ueps.stamped
        issued = newest.issued
        self._fleet.store.write_later(lambda c: save(c, message.sender, issued))
        return replace(message, body=content)

    # ---- inside ----

    async def _open(self, message: Incoming, channel: Channel) -> tuple[Newest | None, Stamp, bytes] | None:
        """Return what is in the seal; None for the plain message of one that does not seal."""
        for again in (True, False):
            found = await channel(message.sender)
            if found is None and not is_sealed(message.body):
                return None
            try:
                if found is None:
                    raise SealError("it is sealed, and its sender does not seal")
                return found[1], *found[0].open(message.body)
            except SealError:
                if not again or not await self._fleet.reread(message.sender):
                    raise
        raise AssertionError("not reached")

    async def _results_channel(self, sender: str) -> tuple[Sealer, Newest | None] | None:
        seals = await self._fleet.seals_of(sender)
        return (self._seals.results(sender, seals), None) if seals else None

    async def _reports_channel(self, sender: str) -> tuple[Sealer, Newest | None] | None:
        core = self._fleet.cores.get(sender)
        if core is not None:
            return (self._seals.notices(sender, core.seals), core.stamped) if core.seals else None
        seals = await self._fleet.seals_of(sender)
        uep = self._fleet.ueps.get(sender) if seals else None
        return (self._seals.reports(sender, seals), uep.stamped) if uep is not None else None
