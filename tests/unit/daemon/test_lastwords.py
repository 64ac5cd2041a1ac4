"""What is said after the end is heard, and has an end."""

from __future__ import annotations

import os
from typing import Any, cast

from mep.daemon.childchannel import ChildChannel
from mep.daemon.hearing import last_words
from mep.daemon.loop import Loop
from mep.daemon.ueps import Reaper, Uep
from mep.daemon.wishes import Wish, Wishes
from mep.priv.clone import Child
from mep.wire import privsep
from mep.wire.privsep import Channel, Note
from mep.wire.signing import StartClaims


def test_who_holds_the_socket_and_goes_on_talking_keeps_nobody() -> None:
    """A process of the user outside the box, as a PAM module may start one."""
    ours, theirs = privsep.channel_pair()
    talker: Channel[Note, object] = Channel(theirs, privsep.MonitorToChild)
    claims = StartClaims(aud="", jti="1", iat=0, exp=0, uep="u", sub="s", username="", ids=[], sha256="")
    wish = Wish("r", claims, os.open(os.devnull, os.O_RDONLY), 0.0)
    uep = Uep(
        uep_id="u",
        request_id="r",
        subject="s",
        username="",
        wishes=Wishes(wish),
        child=Child(1, -1),
        box=cast(Any, None),
        channel=ChildChannel(ours),
    )
    heard: list[object] = []

    def say(number: int) -> None:
        try:
            talker.send(Note(state=str(number)))
        except BrokenPipeError:
            pass

    def gone(_uep: Uep) -> None:
        for word in last_words(uep):
            heard.append(word)
            if len(heard) < 100:
                say(len(heard))

    say(0)
    Reaper(Loop(), on_exit=lambda _uep: None, on_gone=gone)._gone(uep)
    assert heard == [Note(state="0")]
    wish.close()
    uep.channel.close()
    theirs.close()
