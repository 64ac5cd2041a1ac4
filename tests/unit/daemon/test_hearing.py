"""How much root listens to: an account's tasks have one allowance, however many user endpoints it has."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from typing import Any, cast

from mep.daemon.childchannel import ChildChannel
from mep.daemon.hearing import EVENTS_PER_S, Hearing
from mep.daemon.loop import Loop
from mep.daemon.ueps import Uep
from mep.daemon.wishes import Wish, Wishes
from mep.priv.clone import Child
from mep.wire import privsep
from mep.wire.privsep import Channel, Note
from mep.wire.signing import StartClaims
from mep.wire.taskevents import MAX_EVENTS, TaskEvent, TaskEvents

FULL = TaskEvents(events=[TaskEvent("ended", 1.0, "t" * 36, "f" * 36)] * MAX_EVENTS)


def running(uid: int, kept: ExitStack) -> tuple[Uep, Channel[Any, object]]:
    """Return a user endpoint that has been admitted, and its own end of the socket."""
    ours, theirs = privsep.channel_pair()
    theirs.settimeout(0.0)
    claims = StartClaims(aud="", jti="1", iat=0, exp=0, uep="u", sub="s", username="", ids=[], sha256="")
    wish = Wish("r", claims, os.open(os.devnull, os.O_RDONLY), 0.0)
    channel = ChildChannel(ours)
    for close in (wish.close, channel.close, theirs.close):
        kept.callback(close)
    uep = Uep(
        uep_id="u",
        request_id="r",
        subject="s",
        username="",
        wishes=Wishes(wish),
        child=Child(1, -1),
        box=cast(Any, None),
        channel=channel,
        state="running",
        uid=uid,
    )
    return uep, Channel(theirs, privsep.MonitorToChild)


def test_many_user_endpoints_of_an_account_tell_no_more_than_one() -> None:
    loop, heard, noted = Loop(), list[int](), list[float]()
    handlers: dict[type, Any] = {
        TaskEvents: lambda _uep, message: heard.append(len(message.events)),
        Note: lambda _uep, _message: noted.append(time.monotonic()),
    }
    hearing = Hearing(loop, handlers, break_off=lambda _uep, error: None)
    with ExitStack() as kept:
        flood = [running(1001, kept) for _ in range(6)]
        other, channel = running(1002, kept)
        for uep in [other, *(uep for uep, _ in flood)]:
            hearing.listen(uep)
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            for _, theirs in flood:
                with suppress(BlockingIOError):
                    while True:
                        theirs.send(FULL)
            if len(noted) < 5:
                channel.send(Note(state="n"))
            loop.step(0.05)
        took_s = time.monotonic() - began
    most = EVENTS_PER_S * (2 + took_s) + len(flood) * MAX_EVENTS
    assert EVENTS_PER_S < sum(heard) <= most
    assert len(noted) == 5
    assert noted[-1] - began < 1.0, "another account waits for nobody"
