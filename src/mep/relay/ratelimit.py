"""How many requests one person may make: a bucket of tokens each, refilled steadily."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from mep.relay.errors import HttpError

_MOST = 10_000  # people remembered; a full bucket is as good as none


class RateLimit:
    """`per_s` requests on average (0: no limit), `burst_s` seconds' worth of them at once."""

    def __init__(self, per_s: float, *, burst_s: float = 4.0, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._most, self._now = per_s, per_s * burst_s, now
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, and when that was

    def wait_s(self, who: str) -> float:
        """Count one event and return 0; or, if it is one too many, in how many seconds it would not be."""
        return self._wait_s(who)

    def check(self, who: str) -> None:
        """Count one request; HttpError 429 says when to come again. Stock clients obey Retry-After up to 10 s."""
        wait = self._wait_s(who)
        if wait:
            wait_s = max(1, math.ceil(wait))
            raise HttpError(
                429,
                "REQUEST_RATE_EXCEEDED",
                f"More than {self._per_s:g} requests per second. Submit more tasks at once, or wait {wait_s} s.",
                headers={"Retry-After": str(wait_s)},
            )

    def _wait_s(self, who: str) -> float:
        """Count one; return 0, or how long to wait if there is no token."""
        if not self._per_s:
            return 0.0
        now = self._now()
        left, since = self._buckets.get(who, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_s)
        if left < 1.0:
            return (1.0 - left) / self._per_s
        if len(self._buckets) >= _MOST:
            self._buckets.clear()
        self._buckets[who] = (left - 1.0, now)
        return 0.0
