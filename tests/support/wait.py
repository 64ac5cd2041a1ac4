"""A bounded wait for what cannot be awaited: another process's state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], what: str, *, timeout_s: float = 15.0, every_s: float = 0.02) -> T:
    """Return the first true value of `probe`; AssertionError naming `what` after `timeout_s`.

    An AssertionError or OSError of the probe counts as "not yet" and is shown at the end.
    """
    end, last = time.monotonic() + timeout_s, "it stayed false"
    while True:
        try:
            found = probe()
        except (AssertionError, OSError) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if found:
                return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what} ({last})")
        time.sleep(every_s)
