"""What a daemon remembers: written at once, read with care, never forgotten into trust."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mep.base.errors import HostError, RefusedError
from mep.base.ids import new_id
from mep.config.paths import EndpointPaths
from mep.daemon.state import State, clean_environment
from mep.wire import signing
from mep.wire.keys import PublicKey

_SECRET = Ed25519PrivateKey.generate()
OLD, STRANGE = signing.public_key(_SECRET), PublicKey(kid="cc", x="cc" * 32)
NEW = signing.vouch_for(signing.public_key(Ed25519PrivateKey.generate()), by=_SECRET)


@pytest.fixture
def paths(tmp_path: Path) -> EndpointPaths:
    paths = EndpointPaths.locate("site", tmp_path, privileged=True)
    paths.directory.mkdir()
    return paths


def test_the_directory_is_closed_to_others(paths: EndpointPaths) -> None:
    paths.state_dir.mkdir(mode=0o755)
    State(paths)
    assert paths.state_dir.stat().st_mode & 0o777 == 0o700


def test_the_id_is_kept_and_no_other_is_taken(paths: EndpointPaths) -> None:
    endpoint_id = new_id()
    State(paths).accept_id(endpoint_id)
    again = State(paths)
    assert again.endpoint_id == endpoint_id
    again.accept_id(endpoint_id)
    with pytest.raises(RefusedError, match="another endpoint's id"):
        again.accept_id(new_id())
    with pytest.raises(RefusedError, match="no UUID"):
        State(paths).accept_id("../../etc")


def test_a_stock_folders_id_is_used(paths: EndpointPaths) -> None:
    endpoint_id = new_id()
    paths.endpoint_json.write_text(json.dumps({"endpoint_id": endpoint_id}))
    assert State(paths).endpoint_id == endpoint_id


def test_a_stock_id_that_others_could_have_written_is_refused_by_its_name(paths: EndpointPaths) -> None:
    paths.endpoint_json.write_text(json.dumps({"endpoint_id": new_id()}))
    paths.endpoint_json.chmod(0o666)
    with pytest.raises(HostError, match="CONFIG_UNTRUSTED") as caught:
        State(paths, privileged=True)
    assert f"{paths.endpoint_json} can be written by" in caught.value.admin_text
    assert State(paths).endpoint_id, "who starts it for themselves may write as they like"


def test_keys_are_pinned_at_first_and_change_only_beside_a_known_one(paths: EndpointPaths) -> None:
    State(paths).accept_keys([OLD])
    state = State(paths)
    assert state.keys == {OLD.kid: OLD}
    for announced in ([], [STRANGE], [PublicKey(kid=OLD.kid, x="dd" * 32)]):
        with pytest.raises(RefusedError, match=r"relay_keys\.json"):
            state.accept_keys(announced)
    with pytest.raises(RefusedError, match="vouches"):
        state.accept_keys([OLD, STRANGE])
    state.accept_keys([OLD, NEW])
    state.accept_keys([NEW])
    assert State(paths).keys == {NEW.kid: NEW}


def test_a_relay_that_never_signed_may_begin_to(paths: EndpointPaths) -> None:
    state = State(paths)
    state.accept_keys([])
    state.accept_keys([NEW])
    assert State(paths).keys == {NEW.kid: NEW}


def test_damaged_pins_are_no_licence(paths: EndpointPaths) -> None:
    State(paths).accept_keys([OLD])
    (paths.state_dir / "relay_keys.json").write_text("[")
    with pytest.raises(HostError, match="damaged"):
        State(paths)


def test_commands_are_remembered_until_they_are_too_old(paths: EndpointPaths) -> None:
    now = time.time()
    state = State(paths)
    state.remember_command("fresh\nforged", now - 100.25)
    state.remember_command("old", now - 10_000)
    again = State(paths)
    assert again.replays.seen("fresh\nforged", now - 100.25, now)
    assert len(again.replays) == 1


def test_a_restart_while_the_clock_is_wrong_brings_no_command_back(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    State(paths).remember_command("obeyed", now)
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now + 3600)
        State(paths)
    for _ in range(2):  # the restart after the next one knows it, too
        with pytest.raises(RefusedError, match="set back"):
            State(paths).replays.seen("obeyed", now, now + 5)
    assert not State(paths).replays.seen("new", now + 100, now + 100)


def test_what_is_too_old_leaves_the_file_also_without_a_restart(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mep.daemon.state._MOST_LINES", 10)
    kept, now, file = State(paths), time.time(), paths.state_dir / "replays"
    for number in range(35):
        kept.remember_command(f"old {number}", now - 10_000 + number)
        kept.remember_command(f"new {number}", now)
    text = file.read_text()
    assert text.count("old") <= 10
    assert text.count("new") == 35
    again = State(paths)
    assert all(again.replays.seen(f"new {number}", now, now) for number in range(35))
    with pytest.raises(RefusedError, match="clock"):
        again.replays.seen("old 3", now - 10_000 + 3, now - 9_900)
    file.with_name(".replays.new").mkdir()  # it cannot be replaced
    for number in range(10):
        kept.remember_command(f"more {number}", now)
    assert file.read_text().count("more") == 10
    assert "cannot be made shorter" in caplog.text


def test_a_torn_line_costs_one_command_only(paths: EndpointPaths) -> None:
    state = State(paths)
    state.remember_command("one", time.time())
    with (paths.state_dir / "replays").open("a") as file:
        file.write('garbage\n[17]\n["x", 3]\n[NaN, "x"]\n{}\n17')
    again = State(paths)
    assert again.replays.seen("one", time.time(), time.time())


def test_only_a_tree_of_ours_is_swept(paths: EndpointPaths) -> None:
    state = State(paths)
    assert state.previous_cgroup() is None
    state.remember_cgroup(Path("/sys/fs/cgroup/mep-site-1"))
    assert state.previous_cgroup() == Path("/sys/fs/cgroup/mep-site-1")
    state.remember_cgroup(Path("/sys/fs/cgroup/system.slice"))
    assert state.previous_cgroup() is None


def test_the_environment_loses_what_is_the_endpoints_own() -> None:
    ours = {"MEP_CLIENT_SECRET": "x", "GLOBUS_COMPUTE_CLIENT_SECRET": "x", "NOTIFY_SOCKET": "x", "PATH": "/bin"}
    assert clean_environment(ours) == {"PATH": "/bin"}
