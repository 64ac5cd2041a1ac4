"""The control socket of a monitor whose table of descriptors is full."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

from mep.daemon.controlserver import ControlServer
from mep.daemon.loop import Loop
from mep.wire.control import Reply


def test_who_asks_while_the_table_is_full_is_answered_later_and_nobody_spins(tmp_path: Path) -> None:
    loop, answered = Loop(), list[str]()

    def status(_request: object) -> Reply:
        answered.append("status")
        return Reply(ok=True)

    server = ControlServer(loop, tmp_path / "control", {"status": status}, owner_uid=os.geteuid())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10.0)
        client.connect(os.fspath(tmp_path / "control"))
        client.sendall(b'{"verb": "status"}\n')
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            rounds = 0
            while rounds < 1000 and loop._next_timer_s() is None:
                loop.step(0.0)
                rounds += 1
            assert rounds < 1000, "it waits for something"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        loop.call_later(10.0, loop.stop)
        while not answered and not loop._stopped:
            loop.step()
        assert client.recv(100).startswith(b"{")
    server.close()
