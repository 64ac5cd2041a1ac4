"""A user's process holds the other end of the monitor's socket: nothing it sends makes the monitor wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from mep.base.errors import HostError
from mep.daemon import childchannel
from mep.daemon.childchannel import ChildChannel
from mep.wire import privsep
from mep.wire.privsep import Channel, Ready
from support.lingering import LINGER_S, lingering_socket

READY = b"\x81\xa1t\xa5ready"


@pytest.fixture
def lingering() -> Iterator[socket.socket]:
    with lingering_socket() as made:
        yield made


@pytest.fixture(params=["the kernel refuses", "an older kernel"])
def pair(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ChildChannel, socket.socket]]:
    if request.param == "an older kernel":
        monkeypatch.setattr(childchannel, "_refuse_descriptors", lambda _: False)
    ours, theirs = privsep.channel_pair()
    channel = ChildChannel(ours)
    if request.param == "the kernel refuses" and not channel._kernel_refuses:
        ours.close()
        theirs.close()
        pytest.skip("Linux 6.16 or later can refuse")
    yield channel, theirs
    theirs.close()
    ours.close()


def say_ready(theirs: socket.socket) -> None:
    child: Channel[Ready, object] = Channel(theirs, privsep.MonitorToChild)
    child.send(Ready())


def test_a_descriptor_that_lingers_does_not_hold_the_monitor_up(
    pair: tuple[ChildChannel, socket.socket], lingering: socket.socket
) -> None:
    channel, theirs = pair
    if channel._kernel_refuses:
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [READY], [lingering.fileno()])
        return
    socket.send_fds(theirs, [READY], [lingering.fileno()])
    lingering.close()  # the message holds the last one
    before = time.monotonic()
    with pytest.raises(HostError, match="descriptor"):
        channel.receive()
    channel.close()
    assert time.monotonic() - before < LINGER_S / 2


def test_an_empty_message_hides_no_descriptor(
    pair: tuple[ChildChannel, socket.socket], lingering: socket.socket
) -> None:
    channel, theirs = pair
    theirs.send(b"")
    if not channel._kernel_refuses:
        socket.send_fds(theirs, [b""], [lingering.fileno()])
        lingering.close()
    theirs.close()
    before = time.monotonic()
    assert channel.receive() is None
    channel.close()
    assert time.monotonic() - before < LINGER_S / 2


def test_messages_pass_and_the_end_is_heard(pair: tuple[ChildChannel, socket.socket]) -> None:
    channel, theirs = pair
    with pytest.raises(BlockingIOError):
        channel.receive()
    say_ready(theirs)
    assert channel.receive() == (Ready(), None)
    theirs.close()
    assert channel.receive() is None
    before = set(os.listdir("/proc/self/fd"))
    channel.close()
    assert len(before - set(os.listdir("/proc/self/fd"))) >= 1


def test_nobody_can_talk_for_ever_after_the_end(pair: tuple[ChildChannel, socket.socket]) -> None:
    channel, theirs = pair
    say_ready(theirs)
    channel.hang_up()
    with pytest.raises(BrokenPipeError):
        say_ready(theirs)
    assert channel.receive() == (Ready(), None), "what was said before is heard"
    assert channel.receive() is None
