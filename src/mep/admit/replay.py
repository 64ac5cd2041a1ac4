"""Which start commands were seen before: each is obeyed once, whatever the clock does.

A command's number is forgotten once its age alone refuses it. The clock that says so may be wrong, and be set
back later: so of what is forgotten the times of issue are kept, as a few spans, and a command from within one that
is not known is refused. As long as the clock is not set back by minutes, no fresh command is from there.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from mep.base.codes import Code
from mep.base.errors import RefusedError

MAX_REMEMBERED: Final = 32_768  # a flood of distinct signed commands is refused, never forgotten early
#: After its issue; commands are refused by their age from 180 s on.
KEEP_S: Final = 600.0
#: The relay may say a command again by the same number, with the later time of issue.
REPEATED_WITHIN_S: Final = 60.0
_GAP_S: Final = 600.0  # spans that are closer become one
_MOST_SPANS: Final = 64

Span = tuple[float, float]


class ReplayCache:
    """Remembers a command by its unique id. `issued` and `spans` are what another cache goes on with."""

    def __init__(self, issued: Mapping[str, float] | None = None, spans: Iterable[Span] = ()) -> None:
        self.issued: dict[str, float] = dict(issued or {})
        self.spans: list[Span] = []
        for span in spans:
            self._add_span(span)
        self._by_time = [(at, jti) for jti, at in self.issued.items()]
        heapq.heapify(self._by_time)

    def __len__(self) -> int:
        return len(self.issued)

    def seen(self, jti: str, issued: float, now: float) -> bool:
        """Return True if `jti` was seen; remember it otherwise. All times are Unix seconds.

        RefusedError: COMMAND_STALE if it may have been seen before the clock was set back, COMMAND_REPLAYED if so
        many are remembered that one more cannot be. Both fail closed.
        """
        if jti in self.issued:
            self._remember(jti, max(issued, self.issued[jti]))
            return True
        self.forget(now)
        for low, high in self.spans:
            if low <= issued <= high:
                raise _perhaps_seen(issued, now, high)
        if len(self.issued) >= MAX_REMEMBERED:
            raise RefusedError(
                Code.COMMAND_REPLAYED,
                "This endpoint cannot take another start command now.",
                admin_text=f"{MAX_REMEMBERED} unexpired start commands are remembered; no room for one more.",
                step="Submit again in a few minutes.",
            )
        self._remember(jti, issued)
        return False

    def forget(self, now: float) -> None:
        """Forget what is so old that its age refuses it at `now`, but for when it was issued."""
        while self._by_time and self._by_time[0][0] < now - KEEP_S:
            at, jti = heapq.heappop(self._by_time)
            if self.issued.get(jti) == at:
                del self.issued[jti]
                self._add_span((at, at + REPEATED_WITHIN_S))

    def _remember(self, jti: str, issued: float) -> None:
        if self.issued.get(jti) != issued:
            self.issued[jti] = issued
            heapq.heappush(self._by_time, (issued, jti))

    def _add_span(self, new: Span) -> None:
        low, high = new
        apart: list[Span] = []
        for one in self.spans:
            if one[1] + _GAP_S < low or high + _GAP_S < one[0]:
                apart.append(one)
            else:
                low, high = min(low, one[0]), max(high, one[1])
        self.spans = sorted([*apart, (low, high)])
        if len(self.spans) > _MOST_SPANS:
            (first, _), (_, last), *rest = self.spans
            self.spans = [(first, last), *rest]


def _perhaps_seen(issued: float, now: float, until: float) -> RefusedError:
    return RefusedError(
        Code.COMMAND_STALE,
        "The clock of the endpoint's host was set back; it takes no start command from this time.",
        admin_text=f"The start command (issued {issued:.0f}, endpoint {now:.0f}) is of a time whose commands this "
        f"endpoint has seen and forgotten, because its clock showed a later one: it may be a replay. Those issued "
        f"after {until:.0f} are obeyed.",
    )
