"""The rehearsal goes through, and leaves nothing behind in the process that forks everybody."""

from __future__ import annotations

import asyncio
import logging
import os
import threading

import pytest

from mep.broker import rehearsal as broker
from mep.endpoint import rehearsal


def test_the_rehearsal_goes_through_and_leaves_no_descriptor_thread_or_variable() -> None:
    rehearsal.once()  # what is opened once for good, is
    before = (sorted(os.listdir("/proc/self/fd")), threading.active_count(), dict(os.environ), os.getcwd())
    rehearsal.once()
    after = (sorted(os.listdir("/proc/self/fd")), threading.active_count(), dict(os.environ), os.getcwd())
    assert after == before


def test_the_rehearsal_with_the_broker_takes_and_sends_a_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asyncio.run(asyncio.wait_for(broker.rehearse(), 5.0))
    assert caplog.text == ""


def test_a_rehearsal_that_fails_keeps_nobody_from_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rehearsal, "once", lambda: 1 / 0)
    rehearsal.rehearse()
    assert "the rehearsal failed" in caplog.text
