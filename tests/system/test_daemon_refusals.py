"""Who does not become anybody, and what does not become a process: each with its own code, and in words for the
person who may act on it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import time
from pathlib import Path

import pytest

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.base.exits import Exit
from mep.config.paths import EndpointPaths
from mep.daemon.files import LiveFiles
from mep.daemon.prepare import prepare
from mep.daemon.settings import Parts
from mep.sdk.errors import ComputeAPIError, TaskExecutionFailed
from support.endpoint import Endpoint
from support.remote import WAIT_S, assert_refused, by_source, process_id, refusal, titled
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

#: alice is alice; every other name is a case of its own.
CASES: dict[str, tuple[str, str]] = {
    "unmapped@elsewhere.example": ("IDENTITY_NOT_MAPPED", ""),
    "root@example.org": ("IDENTITY_MAPPED_TO_ROOT", "root"),
    "lowuid@example.org": ("IDENTITY_UID_TOO_LOW", "lowuid"),
    "nosuchuser@example.org": ("IDENTITY_NO_ACCOUNT", "nosuchuser"),
    "mep@example.org": ("IDENTITY_ACCOUNT_RESERVED", "mep"),
    "dave@example.org": ("IDENTITY_DENIED", "dave"),
}


def test_each_refused_identity_has_its_code_and_no_local_name_reaches_the_user(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    site = endpoint(config={"denied_groups": ["banned"]})
    for identity, (code, local) in CASES.items():
        sdk_env(identity)
        text = refusal(site)
        assert_refused(text, Code(code))
        if local:
            assert f"'{local}'" not in text
            assert "uid" not in text.lower().replace(code.lower(), "")
    listed = site.status()["last_refusals"]
    assert {code for code, _ in CASES.values()} <= {entry["code"] for entry in listed}
    log = site.log_text()
    for identity, (code, _) in CASES.items():
        assert any(identity in line and code in line and "request " in line for line in log.splitlines()), identity


def test_a_hanging_or_babbling_mapping_program_delays_nobody_else(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    program = open_dir / "mapper"
    program.write_text(
        '#!/bin/sh\nread -r line\ncase "$line" in *hang@*) (sleep 600; true);; *babble@*) echo garbage;; '
        "*flood@*) while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done;; "
        "*fail@*) exit 3;; *) echo garbage;; esac\n"
    )
    program.chmod(0o755)
    mapping = [
        {
            "DATA_TYPE": "expression_identity_mapping#1.0.0",
            "mappings": [{"source": "{username}", "match": "(alice)@example\\.org", "output": "{0}"}],
        },
        {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(program)]},
    ]
    site = endpoint(mapping=mapping, config={"mapping_timeout_s": 3})
    sdk_env("hang@example.org")
    with by_source(site.id) as slow:
        hanging = slow.submit(process_id)
        sdk_env("alice@example.org")
        began = time.monotonic()
        with by_source(site.id) as quick:
            quick.submit(process_id).result(WAIT_S)
        assert time.monotonic() - began < 2.5
        assert not hanging.done()
        with pytest.raises(TaskExecutionFailed) as caught:
            hanging.result(WAIT_S)
        assert_refused(str(caught.value), Code.MAPPING_TIMEOUT)
    for who in ("babble", "fail", "flood"):
        sdk_env(f"{who}@example.org")
        assert_refused(refusal(site), Code.MAPPING_FAILED)
    assert [p for p in site.user_endpoints() if p["user"] != "alice"] == []


def test_template_schema_and_variables_fail_with_role_place_and_what_was_wanted(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    template = "engine:\n  type: ThreadPoolEngine\n  max_workers: {{ workers }}\n"
    site = endpoint(template=template, schema={"type": "object"})
    sdk_env("alice@example.org")
    text = refusal(site)
    assert "TEMPLATE_UNDEFINED" in text
    assert "line 3" in text
    assert "workers" in text
    text = refusal(site, user_endpoint_config={"workers": "many"})
    assert "max_workers" in text
    reserved = by_source(site.id, user_endpoint_config={"workers": 1, "_GC": {}})
    with reserved as executor, pytest.raises(ComputeAPIError, match="OPTIONS_RESERVED"):
        executor.submit(process_id).result(WAIT_S)
    log = [line for line in site.log_text().splitlines() if "TEMPLATE_UNDEFINED" in line]
    assert any("alice@example.org" in line and "request " in line and "line 3" in line for line in log)


def test_changed_files_take_effect_and_broken_ones_do_not(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    site = endpoint(mapping=[])
    sdk_env("alice@example.org")
    assert "IDENTITY_NOT_MAPPED" in refusal(site)
    mapping = site.directory / "identity_mapping.json"
    rule = {"source": "{username}", "match": "alice@example\\.org", "output": "bob"}
    mapping.write_text(json.dumps([{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}]))
    until(lambda: "identity_mapping.json: the change is in force" in site.log_text(), "the mapping is read again")
    with by_source(site.id) as executor:
        executor.submit(process_id).result(WAIT_S)
    assert [uep["user"] for uep in site.user_endpoints()] == ["bob"]
    mapping.write_text("[{")
    until(lambda: site.status()["broken_files"], "status tells of the broken file")
    assert "identity_mapping.json" in site.status()["broken_files"][0]["error"]
    with by_source(site.id, user_endpoint_config={"another": 1}) as executor:
        executor.submit(process_id).result(WAIT_S)
    template = site.directory / "user_config_template.yaml.j2"
    template.write_text(template.read_text() + "# {{ marker }}\n")
    until(lambda: "user_config_template.yaml.j2: the change is in force" in site.log_text(), "the template, too")
    assert "TEMPLATE_UNDEFINED" in refusal(site, user_endpoint_config={"yet another": 1})


def test_files_that_others_can_write_are_refused_by_name(endpoint: MakeEndpoint, open_dir: Path) -> None:
    site = endpoint(start=False)
    for victim in (site.directory / "config.yaml", site.directory / "identity_mapping.json", site.directory):
        mode = stat.S_IMODE(victim.stat().st_mode)
        victim.chmod(0o666 if victim.is_file() else 0o777)
        done = site.mep("start", site.name, check=False)
        assert done.returncode != 0
        assert "CONFIG_UNTRUSTED" in done.stderr
        assert str(victim) in done.stderr
        assert "Traceback" not in done.stderr
        victim.chmod(mode)


def begin(site: Endpoint) -> None:
    """Read what `mep start` reads, in its order."""
    paths = EndpointPaths.locate(site.name, site.config_dir, privileged=True)
    found = prepare(paths, environment={})
    os.close(found.credentials_fd)
    parts = Parts(
        boot=lambda _: 0,
        run_gate=lambda *_: 0,
        preload=lambda _: None,
        check_template=lambda *_: None,
        check_schema=lambda *_: None,
    )
    LiveFiles(paths, endpoint_id="", privileged=True, config=found.config, parts=parts)


def test_every_file_that_steers_root_is_refused_at_the_start_if_others_can_write_it(
    endpoint: MakeEndpoint,
) -> None:
    """And at each change after it: tests/system/test_live_files.py."""
    site = endpoint(start=False)
    (site.directory / ".mep").mkdir(mode=0o700, exist_ok=True)
    for name, text in (("included.j2", ""), ("user_environment.yaml", ""), (".mep/credentials.json", "{}")):
        (site.directory / name).write_text(text)
        (site.directory / name).chmod(0o600)
    begin(site)
    files = {path for path in site.directory.rglob("*") if path.is_file()}
    assert len(files) == 7
    for victim in (*sorted(files), site.directory):
        mode = stat.S_IMODE(victim.stat().st_mode)
        victim.chmod(mode | 0o020)
        with pytest.raises(HostError) as caught:
            begin(site)
        assert caught.value.code == "CONFIG_UNTRUSTED"
        assert str(victim) in caught.value.admin_text
        victim.chmod(mode)


def test_a_mistyped_key_names_file_line_and_nearest_key(endpoint: MakeEndpoint) -> None:
    site = endpoint(start=False, config={"hartbeat_period": 5})
    for command in ("start", "check"):
        done = site.mep(command, site.name, check=False)
        assert done.returncode != 0
        text = done.stderr + done.stdout
        assert "CONFIG_UNKNOWN_KEY" in text
        assert "heartbeat_period" in text
        assert "config.yaml" in text
        assert "line " in text
        assert "Traceback" not in text


@pytest.mark.parametrize(("user", "code"), [("nohome", "HOME_"), ("lockedhome", "HOME_NOT_WRITABLE")])
def test_a_home_that_cannot_be_used_is_named(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, user: str, code: str
) -> None:
    site = endpoint()
    sdk_env(f"{user}@example.org")
    text = refusal(site)
    assert code in text
    assert f"/home/{user}" in text


def test_without_root_only_the_owner_is_served(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_dir / "etc").mkdir()
    shutil.chown(open_dir / "etc", "carol")
    site = endpoint("own", user="carol", config={"public": True})
    assert titled_uids(": own") == {pwd.getpwnam("carol").pw_uid}
    for name, value in site.extra_env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MEP_RELAY_URL", site.relay.url)
    with by_source(site.id) as executor:
        first = executor.submit(process_id).result(WAIT_S)
    [uep] = site.user_endpoints()
    assert (uep["user"], uep["pid"]) == ("carol", first)
    for name in site.extra_env:
        monkeypatch.delenv(name)
    sdk_env("alice@example.org")
    with by_source(site.id) as executor, pytest.raises((ComputeAPIError, TaskExecutionFailed)) as caught:
        executor.submit(process_id).result(WAIT_S)
    assert "IDENTITY_NOT_OWNER" in str(caught.value) or "FORBIDDEN" in str(caught.value)


def titled_uids(text: str) -> set[int]:
    return {Path(f"/proc/{pid}").stat().st_uid for pid in titled(text)}


def test_an_owner_who_is_logged_in_needs_no_client(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, open_dir: Path
) -> None:
    carol = pwd.getpwnam("carol")
    (open_dir / "etc").mkdir()
    shutil.chown(open_dir / "etc", "carol")
    site = endpoint("mine", user="carol", start=False)
    site.extra_env.clear()
    assert "NOT_LOGGED_IN" in site.mep("start", "mine", check=False).stderr
    stored = Path(carol.pw_dir) / ".config" / "mep" / "credentials.json"
    stored.parent.mkdir(parents=True)
    stored.write_text(json.dumps({"relay": site.relay.url, "token": site.relay.token("carol@example.org")}))
    stored.chmod(0o600)
    for path in (stored, stored.parent, stored.parent.parent):
        shutil.chown(path, "carol")
    try:
        site.start()
        sdk_env("carol@example.org")
        with by_source(site.id) as executor:
            executor.submit(process_id).result(WAIT_S)
        assert [uep["user"] for uep in site.user_endpoints()] == ["carol"]
    finally:
        stored.unlink()


@pytest.mark.parametrize(
    ("name", "mode", "owner", "why"),
    [
        ("state", 0o777, "root", "mode 0777"),
        ("keys", 0o600, "alice", "belongs to uid"),
        ("replays", 0o620, "root", "mode 0620"),
        ("logs", 0o1777, "root", "mode 1777"),
        ("above logs", 0o777, "root", "mode 0777"),
    ],
    ids=["state", "keys", "replays", "logs", "above-logs"],
)
def test_state_and_audit_folders_that_others_could_have_changed_are_refused_by_name(
    endpoint: MakeEndpoint, open_dir: Path, name: str, mode: int, owner: str, why: str
) -> None:
    logs = open_dir / "var" / "logs"
    logs.mkdir(parents=True)
    site = endpoint(start=False, config={"audit_log_path": str(logs / "audit.log")})
    site.state_dir.mkdir(mode=0o700, exist_ok=True)
    path = {
        "state": site.state_dir,
        "keys": site.state_dir / "relay_keys.json",
        "replays": site.state_dir / "replays",
        "logs": logs,
        "above logs": logs.parent,
    }[name]
    if not path.exists():
        path.write_text("")
    path.chmod(mode)
    shutil.chown(path, owner)
    for command in ("start", "check") if path.is_dir() else ("start",):
        done = site.mep(command, site.name, check=False)
        text = done.stderr + done.stdout
        assert done.returncode == (Exit.NO_PERMISSION if command == "start" else Exit.CONFIG)
        assert "CONFIG_UNTRUSTED" in text, text
        assert str(path) in text
        assert why in text
        assert "Traceback" not in text
    assert path.stat().st_mode & 0o7777 == mode, "nothing is made good in silence"
    assert not titled(f": {site.name}")
