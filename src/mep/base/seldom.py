"""Log lines that somebody else can cause as often as they like: the first at once, then one a minute."""

from __future__ import annotations

import logging
import time

_PAUSE_S = 60.0


class Seldom:
    """One kind of line. `warn` counts what it does not write, and says so in the next line that it writes."""

    def __init__(self, log: logging.Logger, pause_s: float = _PAUSE_S) -> None:
        self._log, self._pause_s = log, pause_s
        self._next, self._held = 0.0, 0

    def warn(self, text: str, *arguments: object) -> None:
        """Write a warning, or count it."""
        now = time.monotonic()
        if now < self._next:
            self._held += 1
            return
        more = f" ({self._held} more like this before it)" if self._held else ""
        self._next, self._held = now + self._pause_s, 0
        self._log.warning(f"{text}%s", *arguments, more)
