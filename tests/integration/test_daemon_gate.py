"""A gate that was taken over, before a real monitor: what it writes and holds."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from mep.base.ids import new_id
from mep.daemon.allowance import LINES
from mep.daemon.gatesettings import GateSettings
from mep.wire import signing
from support.daemonrig import OWNER, claims_for, daemon, hand_over
from support.remote import titled

FORGED = b"\n2026-01-01 00:00:00,000 INFO monitor: request r uep u (alice, pid 1): admitted by my own rule\n"


def shout_for_ever(settings: GateSettings, monitor_fd: int) -> int:
    def shout() -> None:
        for fd in (1, 2):
            os.set_blocking(fd, True)
        while True:
            for fd in (1, 2):
                os.write(fd, FORGED * 500)

    threading.Thread(target=shout, daemon=True).start()
    return hand_over(settings, monitor_fd)


def test_a_gate_that_floods_and_forges_the_log_delays_and_displaces_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path, run_gate=shout_for_ever) as rig:
        requests = []
        for _ in range(5):
            before = time.monotonic()
            requests.append(rig.start(claims_for(), ["serve"]))
            assert rig.event(requests[-1]).event == "ready"
            assert time.monotonic() - before < 2.0
            time.sleep(0.2)
        assert rig.stop().clean
    lines = capfd.readouterr().err.splitlines()
    assert any(" gate: " in line for line in lines)
    for line in lines:
        assert "my own rule" not in line or " gate: " in line.split("my own rule")[0], line
    for request in requests:
        assert any(f"monitor: request {request}" in line and ": admitted by owner" in line for line in lines)
    assert len(lines) < 600


def test_the_gate_has_neither_the_log_nor_the_terminal(tmp_path: Path) -> None:
    with daemon(tmp_path) as rig:
        ours = Path(f"/proc/{rig.child.pid}/task/{rig.child.pid}/children").read_text().split()
        [gate] = [pid for pid in titled("mep gate: rig") if str(pid) in ours]
        streams = [os.readlink(f"/proc/{gate}/fd/{fd}") for fd in (0, 1, 2)]
        assert streams[0] == "/dev/null"
        assert streams[1] == streams[2]
        assert streams[1].startswith("pipe:")
        assert rig.stop().clean


def test_who_is_refused_for_ever_displaces_nobodys_audit_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path, signed=True) as rig:
        running, eve = claims_for(), new_id()
        assert rig.event(rig.start(running, ["serve"])).event == "ready"
        assert rig.key is not None
        token = signing.sign(running, rig.key)
        for _ in range(100):
            forged = rig.start(claims_for(), [], token="forged")
            strange = rig.start(claims_for(sub=eve, ids=[]), [])
            again = rig.start(running, [], token=token)
            assert (rig.decision(forged).verdict, rig.decision(strange).verdict) == ("refused", "refused")
            assert rig.decision(again).verdict == "running"
        last = rig.start(claims_for(), ["serve"])
        assert rig.event(last).event == "ready"
        assert rig.stop().clean
    lines = [json.loads(line) for line in rig.paths.audit_log.read_text().splitlines()]
    for event, identity in (("start-refused", ""), ("start-refused", eve), ("start-refreshed", OWNER)):
        about = [line for line in lines if line.get("identity") == identity]
        told = [line for line in about if line["event"] == event]
        [more] = [line for line in about if line["event"] == f"{event}-more"]
        assert len(told) == LINES
        assert more["count"] == sum(more["codes"].values()) == 100 - LINES
    assert any(line["event"] == "start-admitted" and line["request_id"] == last for line in lines)
    err = capfd.readouterr().err
    assert err.count("): refused: ") == 2 * LINES
    assert f"start-refused: {100 - LINES} more of {eve}: IDENTITY_NOT_OWNER {100 - LINES} times" in err
