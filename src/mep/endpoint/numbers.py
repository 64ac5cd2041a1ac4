"""Which sealed messages were taken, exactly: for each sender the numbers, as merged ranges. Pure.

A sender counts from 1 without gaps, so that it costs one range however much it sends. What somebody keeps from us
leaves a gap, in which a late message is still taken, once.
"""

from __future__ import annotations

from bisect import bisect_right

from mep.wire.seal import Stamp

#: A relay process is one sender. Who is pushed out of this table was silent through as many lives of the relay.
MOST_SENDERS = 1000
#: Gaps of one sender; the oldest are closed then: what is missing there is not taken any more.
MOST_RANGES = 10_000

#: (sender, first and last number of each range in a row)
Kept = tuple[bytes, list[int]]


class Numbers:
    """The set of all messages that were taken, and of all senders too long gone to be believed."""

    def __init__(self) -> None:
        self._senders: dict[bytes, list[int]] = {}  # first, last, first, last ...; ascending
        self._gone: set[bytes] = set()  # pushed out: nothing of theirs is taken any more

    def __contains__(self, stamp: Stamp) -> bool:
        bounds = self._senders.get(stamp.sender)
        if bounds is None:
            return stamp.sender in self._gone
        at = bisect_right(bounds, stamp.number)
        return at % 2 == 1 or (at > 0 and bounds[at - 1] == stamp.number)

    def add(self, sender: bytes, number: int) -> None:
        """Remember one message."""
        bounds = self._senders.pop(sender, [])
        _add(bounds, number)
        self._senders[sender] = bounds  # the last one now: who is pushed out was silent for longest
        if len(self._senders) > MOST_SENDERS:
            silent = next(iter(self._senders))
            del self._senders[silent]
            self._gone.add(silent)

    def kept(self) -> list[Kept]:
        """Return all of it, oldest sender first, for the journal."""
        return [(sender, []) for sender in sorted(self._gone)] + list(self._senders.items())

    def restore(self, kept: list[Kept]) -> None:
        """Add what `kept` had returned."""
        for sender, bounds in kept:
            if not bounds:
                self._gone.add(sender)
            elif sender not in self._senders:
                self._senders[sender] = list(bounds)
            else:
                for first, last in zip(bounds[::2], bounds[1::2], strict=True):
                    for number in range(first, last + 1):
                        self.add(sender, number)


def _add(bounds: list[int], number: int) -> None:
    if bounds and bounds[-1] == number - 1:  # almost always
        bounds[-1] = number
        return
    at = bisect_right(bounds, number)
    if at % 2 == 1 or (at > 0 and bounds[at - 1] == number):
        return
    follows = at > 0 and bounds[at - 1] == number - 1
    precedes = at < len(bounds) and bounds[at] == number + 1
    if follows and precedes:
        del bounds[at - 1 : at + 1]
    elif follows:
        bounds[at - 1] = number
    elif precedes:
        bounds[at] = number
    else:
        bounds[at:at] = [number, number]
        if len(bounds) > 2 * MOST_RANGES:
            del bounds[1:3]  # joins the two oldest ranges
