"""The relay's side of all seals: keys derived from its secret, so that every relay process has the same.

An endpoint that said at its registration that it can seal has `seals` = 1 + the generation of its credentials, and
so have its user endpoints; 0: it is a stock part, and everything about it stays in stock form. Locking an endpoint
raises the generation: whoever had the keys has nothing.
"""

from __future__ import annotations

from functools import lru_cache

from mep.base.secrets import Secret
from mep.wire import seal
from mep.wire.seal import Sealer

_KEPT = 20_000  # sealers; one that is made anew is a new sender, no more


class Seals:
    """Makes keys and sealers. All of it on the loop."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._sealer = lru_cache(_KEPT)(self._make)
        self.deliveries = lru_cache(_KEPT)(self._delivery)

    # ---- keys, to be handed out over HTTPS or inside a seal ----

    def endpoint_key(self, endpoint_id: str, seals: int) -> Secret:
        return seal.derive(self._secret, "endpoint", endpoint_id, seals)

    def uep_key(self, uep_id: str, seals: int) -> Secret:
        return seal.derive(self._secret, "user endpoint", uep_id, seals)

    def sdk_key(self, identity_id: str) -> Secret:
        return seal.derive(self._secret, "sdk", identity_id)

    # ---- sealers ----

    def commands(self, endpoint_id: str, seals: int) -> Sealer:
        return self._sealer("endpoint", endpoint_id, seals, seal.COMMAND)

    def notices(self, endpoint_id: str, seals: int) -> Sealer:
        return self._sealer("endpoint", endpoint_id, seals, seal.NOTICE)

    def tasks(self, uep_id: str, seals: int) -> Sealer:
        return self._sealer("user endpoint", uep_id, seals, seal.TASK)

    def results(self, uep_id: str, seals: int) -> Sealer:
        return self._sealer("user endpoint", uep_id, seals, seal.RESULT)

    def reports(self, uep_id: str, seals: int) -> Sealer:
        return self._sealer("user endpoint", uep_id, seals, seal.REPORT)

    # ---- inside ----

    def _delivery(self, identity_id: str, group_id: str) -> Sealer:
        return Sealer(self.sdk_key(identity_id), seal.DELIVERY, group_id)

    def _make(self, kind: str, some_id: str, seals: int, purpose: str) -> Sealer:
        key = self.endpoint_key if kind == "endpoint" else self.uep_key
        return Sealer(key(some_id, seals), purpose, some_id)
