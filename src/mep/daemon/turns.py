"""Whose turn it is: so many request processes at once may be finding out who somebody is, and the others wait.

Until somebody is known no limit of theirs holds: many start commands and a slow mapping would fill the process
table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from mep.base.codes import Code
from mep.base.errors import RefusedError
from mep.daemon.loop import Loop
from mep.daemon.wishes import Wish

MOST_AT_ONCE: Final = 64
MOST_OF_ONE: Final = 8  # of one identity
#: The gate has 256 commands undecided at most: one identity's share of them leaves room for the others'.
MOST_WAITING_OF_ONE: Final = 64
MOST_WAITING: Final = 1024
WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Waiting:
    """A command whose turn has not come. `seen`: this very command was here before it came."""

    wish: Wish
    seen: bool


class Turns:
    """Keeps what waits, in the order it came. Owns those wishes until it gives them back."""

    def __init__(
        self,
        loop: Loop,
        *,
        asking: Callable[[], Iterable[str]],
        present: Callable[[str], bool],
        late: Callable[[Wish], None],
    ) -> None:
        """`asking`: the identity of each request process that is at it. `present`: whether one of an id is there.

        `late` gets what has waited too long.
        """
        self._loop, self._asking, self._present, self._late = loop, asking, present, late
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def comes_now(self, wish: Wish) -> bool:
        """Tell whether it may go ahead: none of its id waits, and it needs no process or there is room for one."""
        if any(one.wish.claims.uep == wish.claims.uep for one in self._waiting):
            return False
        return self._may_go(wish, Counter(self._asking()))

    def wait(self, wish: Wish, *, seen: bool) -> None:
        """Keep it until `following`. RefusedError if too many wait; then it stays the caller's."""
        of_one = sum(one.wish.claims.sub == wish.claims.sub for one in self._waiting)
        if of_one >= MOST_WAITING_OF_ONE:
            raise RefusedError(
                Code.START_RATE_EXCEEDED,
                f"{of_one} user endpoints of yours are waiting to be started.",
                admin_text=f"{wish.claims.username}: {of_one} start commands wait for their turn.",
            )
        if len(self._waiting) >= MOST_WAITING:
            raise RefusedError(
                Code.ENDPOINT_FULL,
                "Too many user endpoints are waiting to be started here.",
                admin_text=f"{len(self._waiting)} start commands wait for their turn: is the mapping slow?",
                step="Submit again later, or to another endpoint.",
            )
        one = Waiting(wish, seen)
        self._waiting.append(one)
        self._loop.call_later(WAIT_S, lambda: self._give_up(one))

    def following(self) -> Waiting | None:
        """Take the first that may go now; None if there is none."""
        asking = Counter(self._asking())
        behind: set[str] = set()  # ids of which an earlier one waits
        for place, one in enumerate(self._waiting):
            uep_id = one.wish.claims.uep
            if uep_id not in behind and self._may_go(one.wish, asking):
                del self._waiting[place]
                return one
            behind.add(uep_id)
        return None

    def take_all(self) -> list[Waiting]:
        """Take all: nothing is started any more."""
        taken, self._waiting = self._waiting, []
        return taken

    def _may_go(self, wish: Wish, asking: Counter[str]) -> bool:
        if self._present(wish.claims.uep):
            return True
        return asking.total() < MOST_AT_ONCE and asking[wish.claims.sub] < MOST_OF_ONE

    def _give_up(self, one: Waiting) -> None:
        if one in self._waiting:
            self._waiting.remove(one)
            self._late(one.wish)
