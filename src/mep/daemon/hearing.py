"""Hearing what request processes and user endpoints say: at their allowance, and only what they may say by now."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mep.base.errors import HostError, MepError
from mep.daemon.loop import Loop
from mep.daemon.outcomes import forged
from mep.daemon.rate import Rate
from mep.daemon.ueps import NOTES_PER_S, Uep
from mep.wire.privsep import Failed, Lower, Mapped, Note, Ready, Spawned
from mep.wire.taskevents import MAX_EVENTS, TaskEvents

_PAUSE_S: Final = 1.0  # for one that has used up its allowance
#: Steps of tasks of one account, however many user endpoints it has; each costs root 4 us, and a line on the disk.
EVENTS_PER_S: Final = NOTES_PER_S * MAX_EVENTS

#: What one may say, by how far it has come. Anything else ends it.
MAY_SAY: Final[dict[str, tuple[type, ...]]] = {
    "mapping": (Mapped, Failed),
    "starting": (Spawned, Lower, Ready, Failed, Note, TaskEvents),
    "running": (Spawned, Failed, Note, TaskEvents),
    "stopping": (Failed, Note, TaskEvents),
}

Handler = Callable[[Uep, Any], None]


class Hearing:
    """Gives each message to its handler, by type; `break_off` hears of one that broke the rules, and why."""

    def __init__(
        self, loop: Loop, handlers: Mapping[type, Handler], *, break_off: Callable[[Uep, MepError], None]
    ) -> None:
        self._loop, self._handlers, self._break_off = loop, handlers, break_off
        self._events: defaultdict[int, Rate] = defaultdict(
            lambda: Rate(burst=2 * EVENTS_PER_S, per_s=EVENTS_PER_S)
        )  # by uid

    def listen(self, uep: Uep) -> None:
        """Hear it until `stop`, or until it ends."""
        self._loop.watch(uep.channel.fileno(), lambda: self._on_message(uep))

    def stop(self, uep: Uep) -> None:
        """Hear it no more. Unknown ones are ignored."""
        self._loop.unwatch(uep.channel.fileno())

    def _on_message(self, uep: Uep) -> None:
        pause_s = self._events[uep.uid].wait_s()
        if not pause_s and not uep.may_speak():
            pause_s = _PAUSE_S
        if pause_s:
            self.stop(uep)
            self._loop.call_later(pause_s, lambda: self._listen_again(uep))
        elif not self._hear(uep):
            self.stop(uep)

    def _listen_again(self, uep: Uep) -> None:
        if uep.ended is None:
            self.listen(uep)

    def _hear(self, uep: Uep) -> bool:
        """Take one message; False at the end."""
        try:
            message = _receive(uep)
        except BlockingIOError:
            return True
        except HostError as error:
            self._break_off(uep, forged(error.admin_text))
            return False
        if message is None:
            return False
        if not isinstance(message, MAY_SAY.get(uep.state, ())):
            self._break_off(uep, forged(f"said {type(message).__name__} while {uep.state}"))
            return False
        if isinstance(message, TaskEvents):
            self._events[uep.uid].charge(len(message.events))
        self._handlers[type(message)](uep, message)
        return True


def last_words(uep: Uep) -> Iterator[Any]:
    """Yield what it said before it ended and nobody has heard; whatever is no message ends them."""
    while True:
        try:
            message = _receive(uep)
        except (BlockingIOError, HostError):
            return
        if message is None:
            return
        yield message


def _receive(uep: Uep) -> Any:
    """Return the next message, without the descriptor that nobody wants; None at the end."""
    got = uep.channel.receive()
    if got is None:
        return None
    message, fd = got
    if fd is not None:
        os.close(fd)
    return message
