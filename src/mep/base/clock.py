"""Time, passed as a value where rules depend on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Where the time comes from; tests hand in their own."""

    wall: Callable[[], float] = time.time  # Unix seconds: for people and messages
    monotonic: Callable[[], float] = time.monotonic  # seconds: for durations


SYSTEM_CLOCK = Clock()
