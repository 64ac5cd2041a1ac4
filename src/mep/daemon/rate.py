"""How much somebody may say to root: so much in a row, and so much a second from then on."""

from __future__ import annotations

import time


class Rate:
    """Grows with time, up to what may be said in a row."""

    def __init__(self, *, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at = burst, time.monotonic()

    def take(self, cost: float) -> bool:
        """Count this much; False if so much is not left, and then nothing is counted."""
        self._grow()
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def charge(self, cost: float) -> None:
        """Count what has cost more than was thought; there may be less than nothing left."""
        self._left -= cost

    def wait_s(self) -> float:
        """Return how long it is until there is something left."""
        self._grow()
        return max(0.0, -self._left / self._per_s)

    def _grow(self) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
