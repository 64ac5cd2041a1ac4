"""A user endpoint on its way out: it cannot change its mind, and nobody who asks for it meanwhile is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from mep.base.ids import new_id
from mep.wire.privsep import UepEvent
from support.daemonrig import claims_for, daemon
from support.wait import until

pytestmark = pytest.mark.timeout(60)

LIMITS = "start_timeout_s: 60\n"


def test_one_that_was_asked_to_stop_is_stopped_although_it_says_that_it_is_ready(tmp_path: Path) -> None:
    """Between the request to finish and its end it does what it likes; its grace period goes on."""
    with daemon(tmp_path, config=LIMITS) as rig:
        request = rig.start(claims_for(), ["await", "ready", ["sleep", 1000]])
        assert rig.decision(request).verdict == "started"
        user = rig.status().user_endpoints[0].user
        assert rig.ask("stop-user", user=user).ok
        rig.event(request)
        until(lambda: not rig.status().user_endpoints, "it is gone")


def test_each_start_command_for_one_that_leaves_is_decided(tmp_path: Path) -> None:
    """Only the newest starts the next one; the others are settled, or the gate holds their deliveries for ever."""
    uep = new_id()
    with daemon(tmp_path) as rig:
        first = rig.start(claims_for(uep), ["ready", ["sleep", 1000]])
        assert rig.event(first).event == "ready"
        user = rig.status().user_endpoints[0].user
        assert rig.ask("stop-user", user=user).ok
        later = [rig.start(claims_for(uep), ["serve"]) for _ in range(4)]
        verdicts = [rig.decision(request).verdict for request in later]
        assert verdicts == ["running", "running", "running", "started"]
        ready = rig.event(later[-1])
        assert isinstance(ready, UepEvent)
        assert ready.event == "ready"
