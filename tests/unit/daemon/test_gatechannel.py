"""A gate that was taken over: nothing it sends makes the monitor wait, or fills the monitor's memory."""

from __future__ import annotations

import array
import math
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import pytest

from mep.base.errors import HostError
from mep.daemon.gatechannel import GateChannel
from mep.priv import clone
from mep.wire import privsep
from mep.wire.keys import PublicKey
from support.lingering import LINGER_S, lingering_socket

START = msgspec.msgpack.encode(privsep.Start(request_id="r", token="t"))


@pytest.fixture
def pair() -> Iterator[tuple[GateChannel, socket.socket]]:
    ours, theirs = privsep.channel_pair()
    yield GateChannel(ours), theirs
    theirs.close()
    ours.close()


@pytest.fixture
def lingering() -> Iterator[socket.socket]:
    with lingering_socket() as made:
        yield made


def test_a_memory_file_is_taken(pair: tuple[GateChannel, socket.socket]) -> None:
    channel, theirs = pair
    before = len(os.listdir("/proc/self/fd"))
    fd = os.memfd_create("start")
    os.write(fd, b"body")
    socket.send_fds(theirs, [START], [fd])
    os.close(fd)
    got = channel.receive()
    assert got is not None
    assert got[1] is not None
    assert os.pread(got[1], 10, 0) == b"body"
    os.close(got[1])
    assert len(os.listdir("/proc/self/fd")) == before
    theirs.close()
    assert channel.receive() is None


def test_a_descriptor_that_lingers_does_not_hold_the_monitor_up(
    pair: tuple[GateChannel, socket.socket], lingering: socket.socket
) -> None:
    channel, theirs = pair
    socket.send_fds(theirs, [START], [lingering.fileno()])
    lingering.close()  # the message holds the last one
    began = time.monotonic()
    with pytest.raises(HostError, match="memory file"):
        channel.receive()
    channel.close()
    assert time.monotonic() - began < LINGER_S / 2


def test_several_descriptors_are_not_taken_either(
    pair: tuple[GateChannel, socket.socket], lingering: socket.socket
) -> None:
    channel, theirs = pair
    fd = os.memfd_create("start")
    fds = array.array("i", [fd, lingering.fileno()])
    theirs.sendmsg([START], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    os.close(fd)
    lingering.close()
    began = time.monotonic()
    with pytest.raises(HostError, match="too many"):
        channel.receive()
    channel.close()
    assert time.monotonic() - began < LINGER_S / 2


def test_a_full_table_of_ours_is_no_offence_and_loses_nothing(pair: tuple[GateChannel, socket.socket]) -> None:
    channel, theirs = pair
    fd = os.memfd_create("start")
    socket.send_fds(theirs, [START], [fd])
    os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(OSError, match="LimitNOFILE"):
            channel.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)
    got = channel.receive()
    assert got is not None
    assert got[1] is not None
    os.close(got[1])


@pytest.mark.parametrize("refused", ["the child", "the grandchild"])
def test_a_socket_that_cannot_be_closed_apart_stays_open_and_holds_nobody_up(
    pair: tuple[GateChannel, socket.socket],
    lingering: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    refused: str,
) -> None:
    channel, theirs = pair
    socket.send_fds(theirs, [START], [lingering.fileno()])
    lingering.close()
    real, us = clone.spawn, os.getpid()

    def refuse(run: Callable[[], int]) -> clone.Child:
        if (os.getpid() == us) == (refused == "the child"):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(run)

    monkeypatch.setattr(clone, "spawn", refuse)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"temporarily unavailable|no process"):
        channel.close()
    assert time.monotonic() - began < LINGER_S / 2
    assert channel.fileno() >= 0
    monkeypatch.undo()
    channel.close()
    assert channel.fileno() == -1
    assert time.monotonic() - began < LINGER_S / 2


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_nothing_but_a_memory_file_is_taken(pair: tuple[GateChannel, socket.socket], kind: str) -> None:
    channel, theirs = pair
    reading, writing = os.pipe()
    fd = {"pipe": reading, "directory": os.open("/", os.O_RDONLY), "device": os.open("/dev/null", 0)}[kind]
    socket.send_fds(theirs, [START], [fd])
    with pytest.raises(HostError, match="memory file"):
        channel.receive()
    os.close(writing)
    channel.close()


@pytest.mark.parametrize(
    "message",
    [
        privsep.ServiceState(service="broker\nMAINPID=1", state="connected", since=0),  # type: ignore[arg-type]
        privsep.ServiceState(service="relay", state="x\nMAINPID=1", since=0),  # type: ignore[arg-type]
        privsep.ServiceState(service="relay", state="connected", since=math.inf),
        privsep.Start(request_id="r" * 65),
        privsep.Start(request_id="r\nERROR monitor: forged"),
        privsep.Dismissed(request_id="\x1b[2J", code="X", text=""),
        privsep.Registered(endpoint_id="e", keys=[PublicKey(kid="k\n", x="aa" * 32)]),
        privsep.Registered(endpoint_id="e", keys=[PublicKey(kid=str(n), x="aa" * 32) for n in range(9)]),
        privsep.Fatal(code="X", text="", exit_code=0),
    ],
)
def test_what_could_forge_a_line_or_fill_a_table_is_no_message(
    pair: tuple[GateChannel, socket.socket], message: privsep.GateToMonitor
) -> None:
    channel, theirs = pair
    theirs.send(msgspec.msgpack.encode(message))
    with pytest.raises(HostError, match="invalid"):
        channel.receive()
