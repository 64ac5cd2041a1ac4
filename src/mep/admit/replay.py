"""Which start commands were seen before: each is obeyed once."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping
from typing import Final

from mep.base.codes import Code
from mep.base.errors import RefusedError

MAX_REMEMBERED: Final = 32_768  # a flood of distinct signed commands is refused, never forgotten early


class ReplayCache:
    """Remembers a command's unique id until it expires; then its age alone refuses it.

    `seen` tells whether the id was there and remembers it. `dump` and `load` carry the memory over a restart.
    """

    def __init__(self, remembered: Mapping[str, float] | None = None) -> None:
        self._until: dict[str, float] = dict(remembered or {})
        self._by_time: list[tuple[float, str]] = [(until, jti) for jti, until in self._until.items()]
        heapq.heapify(self._by_time)

    def __len__(self) -> int:
        return len(self._until)

    def seen(self, jti: str, exp: float, now: float) -> bool:
        """Return True if `jti` was seen and has not expired; remember it until `exp` (Unix seconds) otherwise.

        RefusedError(COMMAND_REPLAYED) if so many are remembered that one more cannot be: fails closed.
        """
        self._forget(now)
        if jti in self._until:
            return True
        if len(self._until) >= MAX_REMEMBERED:
            raise RefusedError(
                Code.COMMAND_REPLAYED,
                "This endpoint cannot take another start command now.",
                admin_text=f"{MAX_REMEMBERED} unexpired start commands are remembered; no room for one more.",
                step="Submit again in a few minutes.",
            )
        self._until[jti] = exp
        heapq.heappush(self._by_time, (exp, jti))
        return False

    def _forget(self, now: float) -> None:
        while self._by_time and self._by_time[0][0] < now:
            _, jti = heapq.heappop(self._by_time)
            self._until.pop(jti, None)

    def dump(self) -> str:
        """Return the memory as text."""
        return json.dumps(self._until)

    @classmethod
    def load(cls, text: str) -> ReplayCache:
        """Return the cache that `dump` wrote; ValueError if `text` is anything else."""
        document = json.loads(text)
        if not isinstance(document, dict) or not all(
            isinstance(until, int | float) and not isinstance(until, bool) for until in document.values()
        ):
            raise ValueError("not a replay cache")
        return cls(document)
