"""How many lines about refused commands somebody may cause: who sends such for ever displaces nobody's lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

WINDOW_S: Final = 600.0
#: Of one kind about one identity in a window; what comes then is counted, which makes one line at its end.
LINES: Final = 20
#: All others share one allowance: without signatures, who is who is anybody's say.
MOST_IDENTITIES: Final = 100
OTHERS: Final = "others"

_Key = tuple[str, str]


class Allowance:
    """`count` (event, identity, how many by code) hears of what was withheld when a window ends.

    A window begins with the first line after the last one ended; `later` is the loop's `call_later`.
    """

    def __init__(
        self,
        *,
        later: Callable[[float, Callable[[], None]], Any],
        count: Callable[[str, str, dict[str, int]], None],
    ) -> None:
        self._later, self._count = later, count
        self._lines: Counter[_Key] = Counter()
        self._withheld: dict[_Key, Counter[str]] = {}

    def take(self, event: str, identity: str, code: str = "") -> bool:
        """Tell whether one more line may be written; if not, it is counted under its `code`."""
        if not self._lines:
            self._later(WINDOW_S, self.end_window)
        key = (event, identity)
        if key not in self._lines and len(self._lines) >= MOST_IDENTITIES:
            key = (event, OTHERS)
        if self._lines[key] < LINES:
            self._lines[key] += 1
            return True
        self._withheld.setdefault(key, Counter())[code] += 1
        return False

    def end_window(self) -> None:
        """Tell what was withheld; from now on everybody may cause lines again."""
        withheld, self._withheld = self._withheld, {}
        self._lines.clear()
        for (event, identity), codes in withheld.items():
            self._count(event, identity, dict(codes))
