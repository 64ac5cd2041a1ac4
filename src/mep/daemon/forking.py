"""From a start command that is to be obeyed to the request process in its box, and our end of its socket."""

from __future__ import annotations

import socket

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.daemon.childchannel import ChildChannel
from mep.daemon.ties import Ties
from mep.daemon.ueps import Uep
from mep.daemon.wishes import Wish, Wishes
from mep.priv import clone
from mep.priv.box import Box
from mep.wire import privsep


def fork_request(ties: Ties, wish: Wish) -> Uep:
    """Fork the request process. MepError if that cannot be; then nothing is left of it. Privilege: to fork."""
    claims = wish.claims
    box = ties.make_box(f"uep-{claims.uep}")
    try:
        child, ours = _fork_into(box, wish, ties)
    except OSError as error:
        box.remove()
        raise HostError(
            Code.SPAWN_FAILED, "The endpoint could not start your process.", admin_text=f"fork: {error}"
        ) from None
    return Uep(
        uep_id=claims.uep,
        request_id=wish.request_id,
        subject=claims.sub,
        username=claims.username,
        wishes=Wishes(wish),
        child=child,
        box=box,
        channel=ChildChannel(ours),
        edition=ties.edition(),
    )


def _fork_into(box: Box, wish: Wish, ties: Ties) -> tuple[clone.Child, socket.socket]:
    """Return the child and our end of its socket. OSError as the kernel says. Privilege: to fork."""
    ours, theirs = privsep.channel_pair()
    try:
        return ties.fork(wish, box, theirs), ours
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
