"""Attempts to make the daemon's root code serve somebody else, by who is outside of it."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mep.wire import signing
from mep.wire.privsep import Fatal, GateToMonitor, Owner, Registered, Start, Stop
from support.daemonrig import ENDPOINT_ID, OWNER, claims_for, daemon
from support.lingering import LINGER_S, lingering_socket
from support.program import clean_environment
from support.remote import WAIT_S, alive, by_source, process_id, refusal, titled
from support.rigs import MakeEndpoint, SdkEnv

pytestmark = pytest.mark.timeout(120)


def test_a_folder_that_root_starts_the_endpoint_in_brings_no_code(open_dir: Path, mep: str) -> None:
    theirs = open_dir / "theirs"
    (theirs / "mep").mkdir(parents=True)
    trap = "from pathlib import Path\nPath(__file__).with_name('sprung').touch()\n"
    for name in ("mep/__init__.py", "mep/__main__.py", "click.py", "json.py"):
        (theirs / name).write_text(trap)
    site = open_dir / "etc" / "site"
    site.mkdir(parents=True)
    (site / "config.yaml").write_text("no_such_setting: 1\n")
    done = subprocess.run(
        [mep, "--config-dir", str(open_dir / "etc"), "start", "site"],
        env=clean_environment(extra={"MEP_CLIENT_ID": "id", "MEP_CLIENT_SECRET": "secret"}),
        cwd=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CONFIG_UNKNOWN_KEY" in done.stderr, done.stderr
    assert sorted(theirs.rglob("sprung")) == []


def program_mapping(*command: str) -> list[dict[str, Any]]:
    return [{"DATA_TYPE": "external_identity_mapping#1.0.0", "command": list(command)}]


@pytest.mark.parametrize("how", ["program", "script"])
def test_root_runs_no_mapping_program_that_others_can_change(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, how: str
) -> None:
    program = open_dir / "map-identity"
    program.write_text("#!/bin/sh\ntouch $(dirname $0)/sprung\n")
    program.chmod(0o777)
    command = [str(program)] if how == "program" else ["/bin/sh", str(program)]
    site = endpoint(mapping=program_mapping(*command), start=False)
    with pytest.raises(RuntimeError, match="CONFIG_UNTRUSTED"):
        site.start()
    site.stop()
    program.chmod(0o755)
    site.start()
    program.chmod(0o757)
    sdk_env("alice@example.org")
    assert "CONFIG_UNTRUSTED" in refusal(site)
    assert not (open_dir / "sprung").exists()
    program.chmod(0o755)
    assert "CONFIG_UNTRUSTED" not in refusal(site)
    assert (open_dir / "sprung").exists()


def test_no_process_has_a_descriptor_it_needs_not(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint("fds")
    sdk_env("alice@example.org")
    with by_source(site.id) as alices:
        alices.submit(process_id).result(WAIT_S)
        sdk_env("bob@example.org")
        with by_source(site.id) as bobs:
            bobs.submit(process_id).result(WAIT_S)
            monitors = {name for name in opened(site.status()["pid"]) if name.startswith(("socket:", "/memfd:"))}
            for uep in site.user_endpoints():
                theirs = opened(uep["pid"])
                assert theirs[0] == "/dev/null"
                files = [name for name in theirs if name.startswith("/") and not name.startswith("/dev/")]
                assert [name for name in files if not name.startswith((f"/home/{uep['user']}/", "/memfd:"))] == []
                assert not monitors & {name for name in theirs if name.startswith("socket:")}
            [gate], [guard] = titled("mep gate: fds"), titled("mep guard: fds")
            assert [name for name in opened(gate) if "cgroup" in name or f"{site.directory}/" in name] == []
            assert opened(guard) == ["/dev/null", "/dev/null", "/dev/null", "anon_inode:[pidfd]"]


def opened(pid: int) -> list[str]:
    """What each descriptor of a process is, in their order."""
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in descriptors(pid)]


def descriptors(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))


def test_the_gate_has_no_privilege_and_no_group_but_its_own(endpoint: MakeEndpoint) -> None:
    endpoint("lowly")
    [gate] = titled("mep gate: lowly")
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/{gate}/status").read_text().splitlines())
    account = pwd.getpwnam("mep")
    assert set(told["Uid"].split()) == {str(account.pw_uid)}
    assert set(told["Gid"].split()) == {str(account.pw_gid)}
    assert told["Groups"].split() == [str(account.pw_gid)]
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert told["NoNewPrivs"] == "1"
    assert Path(f"/proc/{gate}/environ").stat().st_uid == 0, "not dumpable: nobody of its account looks in"
    environment = (
        Path(f"/proc/{gate}/environ").read_bytes() + Path(f"/proc/{os.getpid()}/environ").read_bytes()[:0]
    )
    assert b"SECRET" not in environment


def test_a_gate_that_sends_what_lingers_is_replaced_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path) as rig, lingering_socket() as trap:
        rig.gate.send(Start(request_id="r", claims=b"{}"), trap.fileno())
        trap.close()
        assert rig.lose_gate() == []
        began = time.monotonic()
        rig.register()
        assert rig.status().state == "running"
        assert rig.decision(rig.start(claims_for(), ["serve"])).verdict == "started"
        assert time.monotonic() - began < LINGER_S / 2


def test_descriptors_with_messages_that_want_none_are_not_kept(tmp_path: Path) -> None:
    with daemon(tmp_path) as rig:
        rig.decision(rig.start(claims_for(), ["ready", ["exit", 0]]))
        before = len(descriptors(rig.child.pid))
        for _ in range(12):
            fd = os.memfd_create("one of many")
            rig.gate.send(Owner(identities=[OWNER]), fd)
            os.close(fd)
        rig.decision(rig.start(claims_for(), ["ready", ["exit", 0]]))  # all of them were heard before
        assert len(descriptors(rig.child.pid)) <= before + 6, "twelve were sent; that last request has some"


@pytest.mark.parametrize("said", ["fatal", "another id", "another key"])
def test_a_gate_that_was_taken_over_ends_the_endpoint_at_most(tmp_path: Path, said: str) -> None:
    strange = signing.public_key(Ed25519PrivateKey.generate())
    with daemon(tmp_path, signed=True) as rig:
        assert rig.key is not None
        known = [signing.public_key(rig.key)]
        assert rig.event(rig.start(claims_for(), ["linger", "serve"])).event == "ready"
        [uep] = [row.pid for row in rig.status().user_endpoints]
        files = {rig.paths.state_dir / name for name in ("endpoint.json", "relay_keys.json")}
        before = {path: path.read_bytes() for path in files}
        messages: dict[str, GateToMonitor] = {
            "fatal": Fatal(code="ENDPOINT_LOCKED", text="says the gate", exit_code=69),
            "another id": Registered(endpoint_id="bbbbbbbb-0000-4000-8000-000000000001", keys=known),
            "another key": Registered(endpoint_id=ENDPOINT_ID, keys=[strange]),
        }
        rig.gate.send(messages[said])
        rig.hear(Stop)
        assert rig.end().status == 69
        assert alive([uep]) == []
        assert {path: path.read_bytes() for path in files} == before, "nothing is believed"
    with daemon(tmp_path, key=rig.key) as again:
        assert again.decision(again.start(claims_for(), ["serve"])).verdict == "started"


@pytest.mark.parametrize("signed", [False, True])
def test_an_identity_whose_name_is_an_attack_is_shown_as_a_name(tmp_path: Path, signed: bool) -> None:
    nasty = "\x1b]0;x\x07\nERROR monitor: forged\u2028\u202e" + "A" * 5000
    with daemon(tmp_path, signed=signed) as rig:
        name = nasty + ("\ud800" if signed else "")
        stranger = claims_for(username=name, ids=[{"id": name, "sub": "x", "username": name, "status": "used"}])
        token = None
        if signed:
            assert rig.key is not None
            token = jwt.encode(
                msgspec.structs.asdict(stranger),
                rig.key,
                algorithm=signing.ALGORITHM,
                headers={"kid": signing.public_key(rig.key).kid},
            )
        assert rig.decision(rig.start(stranger, ["serve"], token=token)).code == "IDENTITY_NOT_OWNER"
        [shown] = rig.status().last_refusals
        assert shown["identity"].isprintable()
        assert len(shown["identity"]) <= 320


@pytest.mark.parametrize("field", ["jti", "sub"])
def test_a_command_cannot_be_remembered_at_great_length(tmp_path: Path, field: str) -> None:
    with daemon(tmp_path) as rig:
        refused = rig.decision(rig.start(claims_for(**{field: "x" * 30_000}), ["serve"]))
        assert refused.code == "COMMAND_MALFORMED"
