"""The monitor, with the test as its gate: every start command gets one decision, every user endpoint one end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mep.base.ids import new_id
from mep.wire import signing
from mep.wire.privsep import Registered, Reregister, Running, ServiceState, Stop
from mep.wire.signing import StartClaims
from support.daemonrig import ENDPOINT_ID, DaemonRig, claims_for, daemon
from support.remote import titled
from support.wait import until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DaemonRig]:
    with daemon(tmp_path, config="start_timeout_s: 2\n") as running:
        yield running


def test_a_start_command_becomes_a_user_endpoint_and_its_end_is_told(rig: DaemonRig) -> None:
    assert rig.hear(Running).uep_ids == []
    claims = claims_for()
    request = rig.start(claims, ["serve"])
    assert rig.decision(request).verdict == "started"
    assert rig.event(request).event == "ready"
    [row] = rig.status().user_endpoints
    assert (row.uep_id, row.state, row.identity) == (claims.uep, "running", "owner@example.org")
    assert rig.stop().clean
    assert rig.event(request).event == "ended"


@pytest.mark.parametrize(
    ("steps", "event", "code", "text"),
    [
        (["fail", ["exit", 3]], "failed", "TEMPLATE_INVALID", "for the user"),
        (["lie", ["exit", 3]], "failed", "UEP_DIED", "u"),
        ([["exit", 7]], "failed", "UEP_DIED", "exit status 7"),
        ([["die", signal.SIGSEGV]], "failed", "UEP_DIED", "killed by signal 11 (SIGSEGV)"),
        (["ready", ["die", signal.SIGKILL]], "ended", "UEP_DIED", "killed by signal 9 (SIGKILL)"),
        (["ready", ["exit", 0]], "ended", "", ""),
        (["mapped", ["sleep", 60]], "failed", "UEP_DIED", "broke the endpoint's rules"),
        (["ready", "mapped", ["sleep", 60]], "ended", "UEP_DIED", "broke the endpoint's rules"),
        (["garbage", ["sleep", 60]], "failed", "UEP_DIED", "broke the endpoint's rules"),
        (["ready", "huge", ["sleep", 60]], "ended", "UEP_DIED", "broke the endpoint's rules"),
        ([["sleep", 60]], "failed", "START_TIMEOUT", "not ready within 2 s"),
    ],
)
def test_each_end_has_its_words(rig: DaemonRig, steps: list[Any], event: str, code: str, text: str) -> None:
    request = rig.start(claims_for(), steps)
    assert rig.decision(request).verdict == "started"
    told = rig.event(request)
    while told.event == "ready":
        told = rig.event(request)
    assert (told.event, told.code) == (event, code)
    assert text in told.user_text
    until(lambda: not rig.status().user_endpoints, "the record is gone")


def test_an_older_stock_folder_with_a_plain_yaml_template_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "rig"
    folder.mkdir()
    (folder / "user_config_template.yaml").write_text("engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n")
    with daemon(tmp_path) as running:
        request = running.start(claims_for(), ["serve"])
        assert running.event(request).event == "ready"
        assert "max_workers: 2" in (running.paths.state_dir / "preloaded").read_text()
        assert running.stop().clean


def test_what_a_user_endpoint_leaves_is_gone_before_its_end_is_told(rig: DaemonRig) -> None:
    before = set(titled(": rig"))
    request = rig.start(claims_for(), ["linger", "ready", ["sleep", 0.3], ["exit", 0]])
    assert rig.event(request).event == "ready"
    assert len(set(titled(": rig")) - before) >= 2
    assert rig.event(request).event == "ended"
    assert set(titled(": rig")) <= before


def test_a_command_for_a_running_user_endpoint_refreshes_it(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.event(rig.start(claims, ["serve"]))
    again = rig.start(claims_for(claims.uep), ["second"])
    assert rig.decision(again).verdict == "running"
    until(lambda: rig.status().user_endpoints[0].note == 'refreshed ["second"]', "it has the newer payload")


def test_nobody_else_can_refresh_it(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.event(rig.start(claims, ["serve"]))
    stranger = rig.start(claims_for(claims.uep, sub=new_id(), username="eve@example.org"), ["x"])
    refused = rig.decision(stranger)
    assert (refused.verdict, refused.code) == ("refused", "COMMAND_MALFORMED")
    assert "owner" not in refused.user_text


def test_a_command_that_came_just_before_a_clean_end_starts_it_again(rig: DaemonRig) -> None:
    claims = claims_for()
    first = rig.start(claims, ["ready", ["sleep", 0.5]])
    assert rig.event(first).event == "ready"
    second = rig.start(claims_for(claims.uep), ["serve"])
    assert rig.decision(second).verdict == "running"
    assert [rig.event(second).event for _ in range(2)] == ["ended", "ready"]


def test_after_a_crash_the_relay_decides_not_we(rig: DaemonRig) -> None:
    claims = claims_for()
    first = rig.start(claims, ["ready", ["sleep", 0.5], ["exit", 1]])
    assert rig.event(first).event == "ready"
    second = rig.start(claims_for(claims.uep), ["serve"])
    assert rig.decision(second).verdict == "running"
    assert rig.event(second).code == "UEP_DIED"
    assert rig.status().user_endpoints == []


def test_a_start_that_fails_is_told_as_the_answer_to_the_newest_command_that_counted_on_it(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.start(claims, [["sleep", 0.5], ["exit", 1]])
    second = rig.start(claims_for(claims.uep), ["serve"])
    assert rig.decision(second).verdict == "running"
    failed = rig.event(second)
    assert (failed.event, failed.code) == ("failed", "UEP_DIED")


def test_a_command_that_comes_while_it_stops_starts_it_when_it_is_gone(rig: DaemonRig) -> None:
    claims = claims_for()
    first = rig.start(claims, ["linger", "ready", ["sleep", 0.5], "serve"])
    assert rig.event(first).event == "ready"
    user = rig.status().user_endpoints[0].user
    assert rig.ask("stop-user", user=user).ok
    second = rig.start(claims_for(claims.uep), ["serve"])
    assert rig.event(first).event == "ended"
    assert rig.decision(second).verdict == "started"
    assert rig.event(second).event == "ready"


def test_only_the_owners_identities_are_served(rig: DaemonRig) -> None:
    stranger = new_id()
    identities = [{"id": stranger, "sub": stranger, "username": "eve@example.org", "status": "used"}]
    refused = rig.decision(rig.start(claims_for(sub=stranger, ids=identities), ["serve"]))
    assert (refused.verdict, refused.code) == ("refused", "IDENTITY_NOT_OWNER")


def test_a_flood_of_notes_is_throttled_and_harms_nobody(rig: DaemonRig) -> None:
    request = rig.start(claims_for(), [["flood", 100_000], ["sleep", 60]])
    assert rig.event(request).event == "ready"
    other = rig.start(claims_for(), ["serve"])
    assert rig.event(other).event == "ready"
    ours = os.times()
    before = _cpu_ticks(rig.child.pid)
    os.sched_yield()
    until(lambda: os.times().elapsed - ours.elapsed > 1.0, "a second has passed", timeout_s=3)
    assert _cpu_ticks(rig.child.pid) - before < 0.2 * os.sysconf("SC_CLK_TCK")


def test_a_crash_of_the_gate_leaves_user_endpoints_running(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.event(rig.start(claims, ["serve"]))
    assert rig.lose_gate() == [claims.uep]
    [row] = rig.status().user_endpoints
    assert row.state == "running"


def test_ends_are_told_to_the_next_gate(rig: DaemonRig) -> None:
    request = rig.start(claims_for(), ["ready", ["sleep", 0.3], ["exit", 1]])
    rig.event(request)
    rig.lose_gate()
    assert rig.event(request).code == "UEP_DIED"


def test_a_redelivered_command_is_obeyed_once(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.event(rig.start(claims, ["serve"]))
    rig.lose_gate()
    assert rig.decision(rig.start(claims, ["serve"])).verdict == "running"
    assert len(rig.status().user_endpoints) == 1
    stranger = claims_for(sub=new_id(), ids=[])
    assert rig.decision(rig.start(stranger, [])).code == "IDENTITY_NOT_OWNER"
    rig.lose_gate()
    assert rig.decision(rig.start(stranger, [])).code == "IDENTITY_NOT_OWNER", "the same answer, not 'replayed'"


def test_a_stop_refuses_what_still_comes(rig: DaemonRig) -> None:
    rig.event(rig.start(claims_for(), ["linger", "ready", ["sleep", 60]]))
    os.kill(rig.child.pid, signal.SIGTERM)
    until(lambda: rig.status().state == "stopping", "it stops")
    refused = rig.decision(rig.start(claims_for(), ["serve"]))
    assert refused.code == "ENDPOINT_STOPPING"


# ---- signatures ----


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[DaemonRig]:
    with daemon(tmp_path, signed=True) as running:
        yield running


def test_a_signed_command_is_obeyed_once_also_over_a_restart(signed: DaemonRig, tmp_path: Path) -> None:
    claims = claims_for()
    assert signed.event(signed.start(claims, ["ready", ["exit", 0]])).event == "ready"
    until(lambda: not signed.status().user_endpoints, "it has ended")
    assert signed.decision(signed.start(claims, ["serve"])).code == "COMMAND_REPLAYED"
    key = signed.key
    assert signed.stop().clean
    with daemon(tmp_path) as again:
        again.key = key
        assert again.decision(again.start(claims, ["serve"])).code == "COMMAND_REPLAYED"


@pytest.fixture
def ahead_s(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`value`: how far the clock is ahead from now on, here and in every process forked from here."""
    shared, real = RawValue("d", 0.0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + shared.value)
    return shared


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_steps_forward_and_back_brings_no_command_back(
    tmp_path: Path, ahead_s: Any, restarted: bool
) -> None:
    recorded = claims_for()
    with daemon(tmp_path, signed=True) as running:
        key = running.key
        assert running.event(running.start(recorded, ["ready", ["exit", 0]])).event == "ready"
        ahead_s.value = 3600
        assert running.decision(running.start(claims_for(), [["exit", 0]])).verdict == "started"
        ahead_s.value = 3600 if restarted else 0
        if not restarted:
            _assert_no_way_back(running, recorded)
        assert running.stop().clean
    with daemon(tmp_path, key=key) as again:
        ahead_s.value = 0
        _assert_no_way_back(again, recorded)


def test_how_long_something_took_does_not_follow_the_clock(tmp_path: Path, ahead_s: Any) -> None:
    with daemon(tmp_path) as rig:
        request = rig.start(claims_for(), ["ready", ["sleep", 0.5], ["exit", 0]])
        assert rig.event(request).event == "ready"
        ahead_s.value = -3600
        assert rig.event(request).event == "ended"
        lines = map(json.loads, rig.paths.audit_log.read_text().splitlines())
    [seconds] = [line["seconds"] for line in lines if line["event"] == "uep-ended"]
    assert 0 <= seconds < 60


def _assert_no_way_back(rig: DaemonRig, recorded: StartClaims) -> None:
    assert rig.decision(rig.start(recorded, ["serve"])).code in ("COMMAND_STALE", "COMMAND_REPLAYED")
    assert recorded.uep not in {row.uep_id for row in rig.status().user_endpoints}
    new = claims_for(iat=recorded.iat + 100, exp=recorded.exp + 100)
    assert rig.decision(rig.start(new, [["exit", 0]])).verdict == "started"


@pytest.mark.parametrize("case", ["none", "other key", "other endpoint", "stale", "future", "altered", "huge"])
def test_what_the_relay_did_not_sign_starts_nothing(signed: DaemonRig, case: str) -> None:
    assert signed.key is not None
    claims = claims_for()
    expected = "COMMAND_BAD_SIGNATURE"
    token = signing.sign(claims, signed.key)
    if case == "none":
        token, expected = "", "COMMAND_UNSIGNED"
    elif case == "other key":
        token = signing.sign(claims, Ed25519PrivateKey.generate())
    elif case == "other endpoint":
        token = signing.sign(claims_for(aud=new_id()), signed.key)
    elif case in ("stale", "future"):
        shift = -400 if case == "stale" else 400
        moved = claims_for(iat=claims.iat + shift, exp=claims.exp + shift)
        token, expected = signing.sign(moved, signed.key), "COMMAND_STALE"
    elif case == "altered":
        head, body, tail = token.split(".")
        token = f"{head}.{body[:-2] + ('AA' if body[-2:] != 'AA' else 'BB')}.{tail}"
    else:
        token = "x" * 50_000
    refused = signed.decision(signed.start(claims, ["serve"], token=token))
    assert (refused.verdict, refused.code) == ("refused", expected)
    assert signed.status().user_endpoints == []


def test_keys_are_pinned_and_rotate_only_by_a_known_one(signed: DaemonRig, tmp_path: Path) -> None:
    assert signed.key is not None
    signed.ask("reload")
    signed.hear(Reregister)  # so that an administrator can bring new keys in without a restart
    old, new = signed.key, Ed25519PrivateKey.generate()
    both = [signing.public_key(old), signing.vouch_for(signing.public_key(new), by=old)]
    signed.gate.send(Registered(endpoint_id=ENDPOINT_ID, keys=both))
    signed.key = new
    assert signed.event(signed.start(claims_for(), ["serve"])).event == "ready"
    signed.gate.send(Registered(endpoint_id=ENDPOINT_ID, keys=[both[1]]))
    signed.key = old
    assert signed.decision(signed.start(claims_for(), ["serve"])).code == "COMMAND_BAD_SIGNATURE"
    strange = signing.public_key(Ed25519PrivateKey.generate())
    signed.gate.send(ServiceState(service="relay", state="connected", since=0))
    signed.gate.send(Registered(endpoint_id=ENDPOINT_ID, keys=[strange]))
    signed.hear(Stop)
    assert signed.end().status == 69


@pytest.mark.parametrize("case", ["nobody", "itself", "another", "same name"])
def test_who_brings_the_announcement_cannot_add_a_key(signed: DaemonRig, case: str) -> None:
    """A gate that somebody has taken over knows the pinned key's public half, and has a key of its own."""
    assert signed.key is not None
    theirs = Ed25519PrivateKey.generate()
    mine, pinned = signing.public_key(theirs), signing.public_key(signed.key)
    forged = {
        "nobody": mine,
        "itself": signing.vouch_for(mine, by=theirs),
        "another": msgspec.structs.replace(mine, vouch=signing.vouch_for(pinned, by=signed.key).vouch),
        "same name": msgspec.structs.replace(mine, kid=pinned.kid),
    }[case]
    signed.gate.send(Registered(endpoint_id=ENDPOINT_ID, keys=[forged, pinned][: 1 if case == "same name" else 2]))
    signed.hear(Stop)
    assert signed.end().status == 69


def test_an_answer_for_another_endpoint_ends_the_daemon(rig: DaemonRig) -> None:
    rig.gate.send(Registered(endpoint_id=new_id(), keys=[]))
    rig.hear(Stop)
    assert rig.end().status == 69


# ---- admission, draining, audit ----


def test_drain_and_limits(tmp_path: Path) -> None:
    with daemon(tmp_path, config="max_user_endpoints_per_user: 1\nstart_rate_per_user: 2\n") as rig:
        first = rig.start(claims_for(), ["ready", ["sleep", 0.5]])
        assert rig.decision(first).verdict == "started"
        assert rig.decision(rig.start(claims_for(), ["serve"])).code == "USER_LIMIT_REACHED"
        assert rig.event(first).event == "ready"
        assert rig.event(first).event == "ended"
        assert rig.decision(rig.start(claims_for(), ["ready", ["exit", 0]])).verdict == "started"
        until(lambda: not rig.status().user_endpoints, "it has ended")
        assert rig.decision(rig.start(claims_for(), ["serve"])).code == "START_RATE_EXCEEDED"
        assert rig.ask("drain").ok
        assert rig.status().state == "draining"
        assert rig.decision(rig.start(claims_for(), ["serve"])).code == "ENDPOINT_DRAINING"


def test_every_decision_and_end_is_in_the_audit_log(rig: DaemonRig) -> None:
    claims = claims_for()
    rig.event(rig.start(claims, ["serve"]))
    rig.decision(rig.start(claims_for(sub=new_id(), ids=[]), []))
    assert rig.stop().clean
    lines = [json.loads(line) for line in rig.paths.audit_log.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "log-opened",
        "start-admitted",
        "uep-ready",
        "start-refused",
        "uep-ended",
    ]
    assert lines[1]["uep"] == claims.uep
    assert lines[1]["uid"] == os.geteuid()
    assert lines[3]["code"] == "IDENTITY_NOT_OWNER"
    assert (lines[4]["uep"], lines[4]["uid"]) == (claims.uep, os.geteuid())


def test_an_unknown_verb_and_a_bad_line_are_answered(rig: DaemonRig) -> None:
    assert rig.ask("explode").code == "USAGE"
    assert rig.status().state == "running"


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
