"""The start commands for one user endpoint's id, and what each of them still means.

At most two are kept. The first is what it was forked for, until that is admitted or refused. The other is the
newest that came later, and it is one of two things: handed over (it counts again only if the user endpoint leaves
by itself soon after), or waiting (it came too late for this one: the next one starts for it).
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mep.wire.signing import StartClaims

_REMEMBERED_COMMANDS: Final = 8


@dataclass(frozen=True)
class Wish:
    """A start command that is to be obeyed: what the gate sent, verified. `payload_fd` is owned by the wish."""

    request_id: str
    claims: StartClaims
    payload_fd: int
    at: float  # monotonic

    def close(self) -> None:
        os.close(self.payload_fd)


class Kind(Enum):
    """How we know a command that comes for a user endpoint that is there."""

    NEW = "never seen"
    OBEYED = "it is what this one was started for, or was handed to it"
    WAITING = "it waits for the next one"
    OLD = "seen, and it belongs to none of these"


class Answer(Enum):
    """What becomes of it."""

    HAND_OVER = "the living one gets its newer credentials"
    WAIT = "the next one starts for it"
    RUNS = "nothing more: it is obeyed already"
    REFUSE = "it is answered as it was before"


#: What becomes of a command, by how it is known and whether the user endpoint is on its way out. The broker
#: delivers again what a crashed gate had not acknowledged, so that a known command is no attack by itself.
ANSWERS: Final[dict[tuple[Kind, bool], Answer]] = {
    (Kind.NEW, False): Answer.HAND_OVER,
    (Kind.NEW, True): Answer.WAIT,
    (Kind.OBEYED, False): Answer.RUNS,
    (Kind.OBEYED, True): Answer.RUNS,
    (Kind.WAITING, False): Answer.HAND_OVER,
    (Kind.WAITING, True): Answer.WAIT,
    (Kind.OLD, False): Answer.REFUSE,
    (Kind.OLD, True): Answer.REFUSE,
}


class Wishes:
    """What one user endpoint's id is waiting for. Owns the wishes it keeps."""

    def __init__(self, first: Wish) -> None:
        self.first: Wish | None = first  # None: it is decided
        self.newest = first.request_id  # of the commands that count on this one: its end is the answer to that
        self._later: Wish | None = None
        self._waits = False  # what `_later` is
        self._obeyed = deque([first.claims.jti], maxlen=_REMEMBERED_COMMANDS)

    @property
    def decided(self) -> bool:
        """Tell whether it was admitted: until then its end is a refusal."""
        return self.first is None

    @property
    def handed_over(self) -> Wish | None:
        """The newest that the living one has, or is to have."""
        return None if self._waits else self._later

    def answer(self, wish: Wish, *, seen: bool, leaving: bool) -> Answer:
        """Return what becomes of a command that comes now. `seen`: this very command was here before."""
        return ANSWERS[self._kind(wish.claims.jti, seen=seen), leaving]

    def _kind(self, token_id: str, *, seen: bool) -> Kind:
        if not seen:
            return Kind.NEW
        if token_id in self._obeyed:
            return Kind.OBEYED
        waits = self._later is not None and self._waits and self._later.claims.jti == token_id
        return Kind.WAITING if waits else Kind.OLD

    def hand_over(self, wish: Wish) -> None:
        """It is obeyed by the living one."""
        self._obeyed.append(wish.claims.jti)
        self.newest = wish.request_id
        self._keep(wish, waits=False)

    def wait(self, wish: Wish) -> Wish | None:
        """It is for the next one. Return what waited for that before, the caller's to settle and to close."""
        overtaken = None
        if self._waits:
            overtaken, self._later = self._later, None
        self._keep(wish, waits=True)
        return overtaken

    def forget(self, wish: Wish) -> None:
        """It was handed over long enough ago: whatever happens now is not about it."""
        if self.handed_over is wish:
            self._keep(None, waits=False)

    def decide(self) -> None:
        """The first one is admitted."""
        first, self.first = self.first, None
        if first is not None:
            first.close()

    def drop_later(self) -> None:
        """Nothing is to be started after this one."""
        self._keep(None, waits=False)

    def take_next(self, *, by_itself: bool) -> Wish | None:
        """It is gone: return what the next one starts for, the caller's to close; `by_itself`: it left so."""
        self.decide()
        if self._later is not None and (self._waits or by_itself):
            wish, self._later = self._later, None
            return wish
        self.drop_later()
        return None

    def _keep(self, wish: Wish | None, *, waits: bool) -> None:
        old, self._later, self._waits = self._later, wish, waits
        if old is not None:
            old.close()
