"""A real monitor, and peers that say anything: it ends the one who breaks the rules, and serves the next."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mep.wire import control, privsep
from mep.wire.limits import MAX_PRIVSEP_BYTES
from mep.wire.privsep import GateToMonitor
from support.daemonrig import ENDPOINT_ID, WAIT_S, DaemonRig, claims_for, daemon
from support.fuzz import mutated
from support.fuzz.core import memory_file
from support.fuzz.wire import PRIVSEP

_decode = msgspec.msgpack.Decoder(GateToMonitor).decode
#: Of these a valid one ends the daemon, or changes whom it serves: that is the gate's to say.
_DECISIVE = (privsep.Registered, privsep.Owner, privsep.Fatal)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DaemonRig]:
    with daemon(tmp_path, config="start_timeout_s: 5\nstart_rate_per_user: null\n") as running:
        yield running


def serves(rig: DaemonRig) -> None:
    """The next start is served as if nothing had been."""
    request = rig.start(claims_for(), ["ready", ["exit", 0]])
    assert rig.decision(request).verdict == "started"
    assert rig.event(request).event == "ready"
    assert rig.event(request).event == "ended"


def understood(body: bytes) -> bool:
    if len(body) > MAX_PRIVSEP_BYTES:
        return False
    try:
        return not isinstance(_decode(body), _DECISIVE)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def test_a_gate_that_says_what_it_likes_starts_nothing_and_stops_nobody(rig: DaemonRig) -> None:
    """Well-formed messages with wrong contents, with and without a descriptor."""
    rng, said = random.Random("gate"), 0
    claims = msgspec.json.encode(claims_for())
    seeds = [privsep.Start(request_id="r", claims=claims), privsep.Start(request_id="s", token="a.b.c")]
    bodies = [msgspec.msgpack.encode(seed) for seed in (*seeds, *PRIVSEP["gate to monitor"][1])]
    before = rig.ask("status").status
    while said < 400:
        seed = rng.choice(seeds)
        hostile = msgspec.structs.replace(seed, claims=mutated(seed.claims or b"{}", rng)[:60_000])
        body = rng.choice([mutated(rng.choice(bodies), rng), msgspec.msgpack.encode(hostile)])
        if not understood(body):
            continue
        fds = [memory_file(b'["ready", ["exit", 0]]')] if rng.random() < 0.7 else []
        socket.send_fds(rig.gate.sock, [body], fds)
        for fd in fds:
            os.close(fd)
        said += 1
        if said % 25 == 0:
            serves(rig)
    after = rig.ask("status").status
    assert before is not None
    assert after is not None
    assert (after.endpoint_id, after.pid) == (ENDPOINT_ID, before.pid)


BROKEN = {
    "byte": b"\xff",
    "huge-map": b"\xdf\xff\xff\xff\xff",
    "deep": b"\x91" * 5000,
    "too-large": b"x" * (MAX_PRIVSEP_BYTES + 1),
    "half": b"\x81\xa1t\xa5start",
    "empty": b"\x80",
    "text": b"\x82\xa1t\xa5start\xaarequest_id\xa2\xff\xfe",
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_gate_that_breaks_the_rules_is_replaced(rig: DaemonRig, kind: str) -> None:
    rig.gate.sock.send(BROKEN[kind])
    until_hung_up(rig)
    rig.gate.close()
    rig.later.clear()
    rig.take_gate()
    serves(rig)


def until_hung_up(rig: DaemonRig) -> None:
    try:
        while rig.gate.receive() is not None:
            pass
    except ConnectionError:
        pass


def test_a_child_that_says_what_it_likes_ends_alone(rig: DaemonRig) -> None:
    rng = random.Random("child")
    seeds = [msgspec.msgpack.encode(seed) for seed in PRIVSEP["child to monitor"][1]]
    other = rig.start(claims_for(), ["serve"])
    assert rig.event(other).event == "ready"
    for number in range(60):
        raw: list[Any] = [["raw", (mutated(rng.choice(seeds), rng)[:70_000] or b"\0").hex()] for _ in range(6)]
        steps = [*(["ready"] if number % 2 else []), *raw, ["exit", 0]]
        request = rig.start(claims_for(), steps)
        assert rig.decision(request).verdict == "started"
        while rig.event(request).event not in ("failed", "ended"):
            pass
    serves(rig)
    [row] = rig.status().user_endpoints
    assert row.state == "running"


def test_lines_at_the_control_socket_are_answered_or_cut_off(rig: DaemonRig) -> None:
    rng = random.Random("control")
    seeds = [control.encode(control.Request(verb="status")), b'{"verb": "stop-user", "user": "nobody-here"}\n']
    lines = [
        b"\n",
        b"[" * 10_000 + b"\n",
        b"\xff\xfe\n",
        b'{"verb": "' + b"x" * 60_000 + b'"}\n',
        b"x" * 1_000_000,
    ]
    lines += [line for line in (mutated(rng.choice(seeds), rng) for _ in range(150)) if b'"stop"' not in line]
    for line in lines:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(WAIT_S)
            sock.connect(str(rig.paths.control_socket))
            try:
                sock.sendall(line)
                sock.shutdown(socket.SHUT_WR)
                said = b"".join(iter(lambda: sock.recv(65536), b""))
            except (BrokenPipeError, ConnectionResetError):
                continue  # it stopped reading
        assert said == b"" or isinstance(control.decode_reply(said), control.Reply)
    assert rig.status().state == "running"
    serves(rig)
