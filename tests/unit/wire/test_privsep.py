"""Between privileges only a closed set of small messages passes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mep.base.errors import HostError
from mep.wire import privsep
from mep.wire.limits import MAX_PRIVSEP_BYTES, MAX_TEXT_CHARS
from mep.wire.privsep import Channel

UNIONS = [privsep.GateToMonitor, privsep.MonitorToGate, privsep.ChildToMonitor, privsep.MonitorToChild]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = privsep.channel_pair()
    yield left, right
    left.close()
    right.close()


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_message_passes_with_its_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    gate: Channel[Any, Any] = Channel(pair[0], privsep.MonitorToGate)
    monitor: Channel[Any, Any] = Channel(pair[1], privsep.GateToMonitor)
    reading, writing = os.pipe()
    gate.send(privsep.Start(request_id="r", token="t"), writing)
    os.close(writing)
    received = monitor.receive()
    assert received is not None
    message, fd = received
    assert message == privsep.Start(request_id="r", token="t")
    assert fd is not None
    assert os.get_inheritable(fd) is False
    os.write(fd, b"x")
    os.close(fd)
    assert os.read(reading, 2) == b"x"
    os.close(reading)


def test_a_message_of_another_direction_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    child: Channel[Any, Any] = Channel(pair[0], privsep.MonitorToChild)
    monitor: Channel[Any, Any] = Channel(pair[1], privsep.ChildToMonitor)
    child.send(privsep.Registered(endpoint_id="e", keys=[]))
    with pytest.raises(HostError, match="invalid"):
        monitor.receive()


def test_an_oversize_message_is_neither_sent_nor_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    left: Channel[Any, Any] = Channel(pair[0], privsep.MonitorToGate)
    right: Channel[Any, Any] = Channel(pair[1], privsep.GateToMonitor)
    with pytest.raises(HostError, match="too large"):
        left.send(privsep.Start(request_id="r", token="x" * MAX_PRIVSEP_BYTES))
    pair[0].send(b"x" * (MAX_PRIVSEP_BYTES + 10))
    with pytest.raises(HostError, match="too large"):
        right.receive()


def test_more_descriptors_than_one_are_refused_and_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    monitor: Channel[Any, Any] = Channel(pair[1], privsep.GateToMonitor)
    body = msgspec.msgpack.encode(privsep.Start(request_id="r"))
    before = open_fds()
    for count in (2, 4, 20):
        socket.send_fds(pair[0], [body], [0] * count)
        with pytest.raises(HostError):
            monitor.receive()
    assert open_fds() == before


def test_descriptors_beside_garbage_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    monitor: Channel[Any, Any] = Channel(pair[1], privsep.GateToMonitor)
    before = open_fds()
    socket.send_fds(pair[0], [b"garbage"], [0])
    with pytest.raises(HostError):
        monitor.receive()
    assert open_fds() == before


def test_a_peer_that_is_gone_is_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    monitor: Channel[Any, Any] = Channel(pair[1], privsep.GateToMonitor)
    pair[0].close()
    assert monitor.receive() is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(noise=st.binary(min_size=1, max_size=300), direction=st.sampled_from(range(4)))
def test_any_bytes_are_taken_or_refused(
    noise: bytes, direction: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    channel: Channel[Any, Any] = Channel(pair[1], UNIONS[direction])
    pair[0].send(noise)
    try:
        channel.receive()
    except HostError:
        pass


@given(st.text(max_size=6000))
def test_a_capped_text_is_short_and_has_no_control_characters(text: str) -> None:
    capped = privsep.cap_text(text)
    assert len(capped) <= MAX_TEXT_CHARS
    assert all(c.isprintable() or c == "\n" for c in capped)
    assert privsep.cap_text(capped) == capped


@pytest.mark.parametrize("verb", ["status", "stop"])
def test_control_requests_are_one_line(verb: str) -> None:
    from mep.wire import control

    line = control.encode(control.Request(verb=verb))
    assert line.count(b"\n") == 1
    assert control.decode_request(line) == control.Request(verb=verb)
