"""What systemd is told is what was meant, whatever others have put into it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mep.host.notify import tell_systemd


def test_a_text_cannot_tell_systemd_more_than_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("systemd.daemon", reason="systemd-python was not built here")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        tell_systemd(STATUS="relay said: x\nMAINPID=1\r\nREADY=1", READY="1")
        assert listener.recv(1000).decode().split("\n") == ["STATUS=relay said: x MAINPID=1 READY=1", "READY=1"]
