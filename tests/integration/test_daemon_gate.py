"""A gate that was taken over, before a real monitor: what it writes and holds."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mep.daemon.gatesettings import GateSettings
from support.daemonrig import claims_for, daemon, hand_over
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
        [gate] = titled("mep gate: rig")
        streams = [os.readlink(f"/proc/{gate}/fd/{fd}") for fd in (0, 1, 2)]
        assert streams[0] == "/dev/null"
        assert streams[1] == streams[2]
        assert streams[1].startswith("pipe:")
        assert rig.stop().clean
