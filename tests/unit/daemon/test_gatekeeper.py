"""A gate that cannot be started now is started later: an endpoint without one would look alive and be deaf."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from mep.daemon.gatekeeper import Gatekeeper
from mep.daemon.loop import Loop
from mep.priv import clone


def test_a_refused_process_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """The kernel refuses root a process only where limits that no test can set are reached."""
    asked: list[int] = []

    def refuse(*_: object, **__: object) -> clone.Child:
        asked.append(1)
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(clone, "spawn", refuse)
    loop = Loop()
    keeper = Gatekeeper(
        loop,
        cast(Any, None),
        lambda _settings, _fd: 0,
        settings=lambda: cast(Any, None),
        handlers={},
        running=list,
        lost=lambda _why: None,
        gone=loop.stop,
        cgroup_fd=None,
    )
    before = len(os.listdir("/proc/self/fd"))
    keeper.start_again()
    loop.step(5.0)
    assert len(asked) == 2
    assert "cannot be started: [Errno 11]" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before
