"""How a child's READY=1 arrives."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from mep.relay.notifysocket import NotifySocket


def say(path: Path, words: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(words, str(path))


async def test_only_ready_is_ready(tmp_path: Path) -> None:
    notify = NotifySocket(tmp_path)
    say(notify.path, b"STATUS=not READY=1 yet")
    await asyncio.sleep(0.01)
    assert not notify.ready.done()
    say(notify.path, b"STATUS=up\nREADY=1\n")
    await asyncio.wait_for(notify.ready, 5)
    say(notify.path, b"READY=1")
    say(notify.path, b"STOPPING=1")
    await asyncio.sleep(0.01)
    notify.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_long_path_and_a_killed_predecessors_socket_do_not_matter(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    notify = NotifySocket(long)
    say(notify.path, b"READY=1")
    await asyncio.wait_for(notify.ready, 5)
    notify.close()
    assert not notify.path.parent.exists()

    (tmp_path / "notify").touch()
    notify = NotifySocket(tmp_path)
    say(notify.path, b"READY=1")
    await asyncio.wait_for(notify.ready, 5)
    notify.close()
