"""When a user endpoint has been idle for long enough. Pure: counts heartbeats, knows no time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """After a heartbeat: go now? Otherwise, how many more idle heartbeats until then (None: not counting)."""

    leave: bool = False
    hard: bool = False
    beats_left: int | None = None


class IdleClock:
    """Counts heartbeats without movement, as the stock endpoint does.

    `soft` of them with nothing outstanding end the endpoint; `hard` of them end it even with tasks outstanding
    (one that never returns). `soft` 0 means never, and then `hard` does not count either; `hard` 0 means never.
    """

    def __init__(self, soft: int, hard: int) -> None:
        self._soft, self._hard = max(0, soft), max(0, hard)
        self._still = 0  # heartbeats in a row without any movement
        self._idle = 0  # ... and with nothing outstanding
        self._moved = True

    def moved(self) -> None:
        """A task came, a result went, or somebody asked for this endpoint."""
        self._moved = True
        self._still = self._idle = 0

    def beat(self, outstanding: int) -> Verdict:
        """Count one heartbeat; `outstanding` tasks are accepted and not answered."""
        if self._soft == 0:
            return Verdict()
        if self._moved:
            self._moved = False
            return Verdict(beats_left=None if outstanding else self._soft)
        self._still += 1
        self._idle = 0 if outstanding else self._idle + 1
        if not outstanding:
            left = self._soft - self._idle
            return Verdict(leave=left <= 0, beats_left=max(0, left))
        if self._hard:
            left = self._hard - self._still
            return Verdict(leave=left <= 0, hard=True, beats_left=max(0, left))
        return Verdict()
