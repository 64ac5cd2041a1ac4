"""Registering with the relay, for as long as it takes: back-off, one log line per change, refusals are final."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mep.base.codes import Code
from mep.base.errors import ServiceError
from mep.base.exits import Exit
from mep.base.ids import is_uuid
from mep.broker.backoff import Backoff
from mep.daemon.relayclient import RelayClient, RelayRefusal
from mep.wire.privsep import ServiceState, Standing
from mep.wire.rest import RegistrationAnswer, RegistrationRequest

log = logging.getLogger(__name__)

T = TypeVar("T")


class Registrar:
    """Asks the relay until it answers. `tell` hears how we stand with it, each change once."""

    def __init__(self, client: RelayClient, endpoint_id: str, *, tell: Callable[[ServiceState], None]) -> None:
        self.endpoint_id = endpoint_id
        self._client, self._tell = client, tell
        self._state = ""
        self._one_at_a_time = asyncio.Lock()

    async def register(self, request: RegistrationRequest) -> RegistrationAnswer:
        """Return the relay's answer; RelayRefusal if it will not have us, or answers for another endpoint."""
        async with self._one_at_a_time:
            answer = await self._insist(lambda: self._client.register(request, self.endpoint_id))
        if not is_uuid(answer.endpoint_id) or self.endpoint_id not in ("", answer.endpoint_id):
            raise RelayRefusal(
                Code.RELAY_REFUSED,
                f"The relay answered with another endpoint's id: {answer.endpoint_id[:60]!r}; this endpoint is "
                f"{self.endpoint_id or 'new'}.",
                Exit.UNAVAILABLE,
            )
        self.endpoint_id = answer.endpoint_id
        for warning in answer.warnings:
            log.warning("relay: %s", warning)
        return answer

    async def owner_identities(self) -> list[str]:
        """Return the identities of the endpoint's owner; RelayRefusal if there are none."""
        return await self._insist(self._client.owner_identities)

    async def _insist(self, call: Callable[[], T]) -> T:
        """Call, in a thread, until it works or is refused for good."""
        backoff = Backoff(0.2, 30.0)
        while True:
            try:
                result = await asyncio.to_thread(call)
            except ServiceError as error:
                self._become("connecting", error.user_text)
                await asyncio.sleep(backoff.next_s())
                continue
            except RelayRefusal as refusal:
                self._become("refused", refusal.user_text)
                raise
            self._become("connected", "")
            return result

    def _become(self, state: Standing, detail: str) -> None:
        if state == self._state:
            return
        self._state = state
        level = logging.INFO if state == "connected" else logging.WARNING
        log.log(level, "relay %s%s", state, f": {detail}" if detail else "")
        self._tell(ServiceState(service="relay", state=state, since=time.time(), detail=detail[:1000]))
