"""How a user endpoint ended, in words: for its user and for the administrator."""

from __future__ import annotations

from mep.base.codes import Code
from mep.base.errors import HostError, MepError
from mep.daemon.ueps import Uep
from mep.wire.privsep import Failed


def how_it_ended(uep: Uep) -> MepError | None:
    """Return why it failed or died; None where it ended by itself and well, or was asked to.

    Called once its last process is gone, before its box is given back.
    """
    if uep.killed_because is not None:
        return uep.killed_because
    oom_kills = uep.box.oom_kills()
    if uep.failed is not None:
        return _as_told(uep.failed)
    ended = uep.ended
    assert ended is not None
    if uep.was_ready and (ended.clean or uep.quit_asked):
        return None
    if oom_kills and not ended.clean:
        return HostError(Code.LIMIT_EXCEEDED, f"Your user endpoint was killed: memory limit ({ended}).", step="")
    when = "" if uep.was_ready else " while it started"
    return HostError(Code.UEP_DIED, f"Your user endpoint ended{when}: {ended}.")


def _as_told(failed: Failed) -> MepError:
    """Its own words: it may be the user's process by now, so the code is checked and the texts are only shown."""
    try:
        code = Code(failed.code)
    except ValueError:
        code = Code.UEP_DIED
    return HostError(code, failed.user_text, admin_text=failed.admin_text, step="")
