from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mep import __version__
from support.cli import MepCommand, mapping_file, write_json

FOR_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not FOR_ROOT, reason="needs root: what steers only root is checked only for root")


def findings(command: MepCommand, level: str) -> list[dict[str, Any]]:
    return [f for f in command.run("check", "e", "--json").json["findings"] if f["level"] == level]


def test_check_reads_every_file(command: MepCommand, endpoint: Path) -> None:
    subjects = {Path(f["subject"]).name for f in findings(command, "ok")}
    wanted = {
        "config.yaml",
        "user_config_schema.json",
        "user_config_template.yaml.j2",
        "user_environment.yaml",
        "relay",
    }
    assert subjects >= wanted | ({"identity_mapping.json", "gate_user", "limits"} if FOR_ROOT else set())
    assert command.run("check", "e").status == 0


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        (
            "config.yaml",
            "relay: http://r\nmax_user_endpoint: 3\n",
            "CONFIG_UNKNOWN_KEY",
            "line 2: max_user_endpoint: no such key",
        ),
        ("config.yaml", "display_name: x\n", "CONFIG_INVALID", "No relay is named"),
        ("user_config_schema.json", "{", "CONFIG_INVALID", "is not valid JSON"),
        ("user_config_schema.json", '{"type": "x"}', "SCHEMA_INVALID", "$.type"),
        ("user_config_template.yaml.j2", "a: {{", "TEMPLATE_INVALID", "line 1"),
        ("user_config_template.yaml.j2", "engine: {type: ThreadEngine}", "ENGINE_UNKNOWN", "is not an engine"),
        ("user_environment.yaml", "- a", "CONFIG_INVALID", "wanted `NAME: value` lines"),
    ],
)
def test_check_names_what_is_wrong_and_ends_with_78(
    command: MepCommand, endpoint: Path, name: str, content: str, code: str, says: str
) -> None:
    (endpoint / name).write_text(content)
    [finding] = (
        findings(command, "error")
        if name != "config.yaml" or "relay" in content
        else findings(command, "error")[:1]
    )
    assert (finding["code"], Path(finding["subject"]).name) == (code, name)
    assert says in finding["text"]
    answer = command.run("check", "e")
    assert answer.status == 78
    assert "It would not start." in answer.out


def test_a_fault_that_only_some_options_meet_is_found(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "user_config_template.yaml.j2").write_text(
        "engine:\n  type: ThreadPoolEngine\n{% if engine == 'ProcessPoolEngine' %}  wokers: 3\n{% endif %}"
    )
    [finding] = findings(command, "error")
    assert "wokers" in finding["text"]
    assert "ProcessPoolEngine" in finding["text"]


def test_schema_and_template_are_compared(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "user_config_template.yaml.j2").write_text(
        "engine: {type: ThreadPoolEngine, max_workers: {{ wrkers | default(1) }} }"
    )
    assert any(
        "'wrkers', which user_config_schema.json lets nobody give" in f["text"]
        for f in findings(command, "warning")
    )
    assert any("'max_workers', which the template does not use" in f["text"] for f in findings(command, "note"))
    write_json(endpoint / "user_config_schema.json", {"properties": {}})
    assert any("does not restrict" in f["text"] for f in findings(command, "note"))


def test_stock_settings_without_effect_are_listed_with_the_reason(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "config.yaml").write_text("relay: http://127.0.0.1\ngate_user: daemon\ndetach_endpoint: true\n")
    assert "detach_endpoint has no effect: use `mep start NAME --detach`" in [
        f["text"] for f in findings(command, "note")
    ]


def test_an_unencrypted_way_to_a_relay_elsewhere_is_a_warning(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "config.yaml").write_text("relay: http://relay.example\ngate_user: daemon\n")
    assert any("unencrypted" in f["text"] for f in findings(command, "warning"))


def test_templates_and_schemas_without_the_usual_ending_and_includes(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "user_config_template.yaml.j2").rename(endpoint / "user_config_template.yaml")
    assert command.run("check", "e").status == 0
    (endpoint / "user_config_template.yaml").write_text("{% include 'engine.j2' %}")
    assert command.run("check", "e").status == 78
    (endpoint / "engine.j2").write_text("engine: {type: ThreadPoolEngine}")
    assert command.run("check", "e").status == 0


@needs_root
def test_a_file_that_others_can_change_is_named_with_the_reason(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "identity_mapping.json").chmod(0o666)
    [finding] = findings(command, "error")
    assert finding["code"] == "CONFIG_UNTRUSTED"
    assert Path(finding["subject"]).name == "identity_mapping.json"
    assert "can be written by its group or by others" in finding["text"]


@needs_root
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("gate_user: nobody-of-this-name", "there is no account 'nobody-of-this-name'"),
        ("gate_user: root", "must not be root"),
        ("gate_user: daemon\npam: {service_name: no-such-service}", "/etc/pam.d/no-such-service is not there"),
    ],
)
def test_the_host_is_asked_what_the_settings_need(
    command: MepCommand, endpoint: Path, settings: str, says: str
) -> None:
    (endpoint / "config.yaml").write_text(f"relay: http://127.0.0.1\n{settings}\n")
    assert any(says in f["text"] for f in findings(command, "error"))


@needs_root
def test_a_mapping_program_must_be_roots_too(command: MepCommand, endpoint: Path, tmp_path: Path) -> None:
    program = tmp_path / "map.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(program)]}
    write_json(endpoint / "identity_mapping.json", [document])
    assert command.run("check", "e").status == 0
    program.chmod(0o777)
    [finding] = findings(command, "error")
    assert (finding["code"], finding["subject"]) == ("CONFIG_UNTRUSTED", str(program))


def test_map_says_who_and_by_which_rule(command: MepCommand, endpoint: Path) -> None:
    mapping_file(endpoint, (r"(.*)@example\.org", "{0}"), (r"robot@x", "nobody")).rename(
        endpoint / "identity_mapping.json"
    )
    answer = command.run("map", "e", "--identity", "robot@x", "--json")
    assert answer.status == 1
    assert answer.json["username"] == "nobody"
    assert answer.json["rule"] == "[0].mappings[1] ({username} ~ robot@x -> nobody)"
    assert answer.json["account"]["uid"] == 65534
    assert "IDENTITY_DENIED" in answer.json["refused"]
    assert answer.err.startswith("mep: IDENTITY_DENIED: 'nobody' matches 'nobody' of denied_users.")


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        ("x@elsewhere", "IDENTITY_NOT_MAPPED"),
        ("root@example.org", "IDENTITY_MAPPED_TO_ROOT"),
        ("bin@example.org", "IDENTITY_UID_TOO_LOW"),
        ("daemon@example.org", "IDENTITY_ACCOUNT_RESERVED"),
        ("no-such-account@example.org", "IDENTITY_NO_ACCOUNT"),
        ("a b;c@example.org", "IDENTITY_NO_ACCOUNT"),
    ],
)
def test_map_names_the_refusal(command: MepCommand, endpoint: Path, identity: str, code: str) -> None:
    answer = command.run("map", "e", "--identity", identity)
    assert answer.status == 1
    assert answer.err.startswith(f"mep: {code}: ")


def test_map_takes_identity_documents_in_every_wrapping(
    command: MepCommand, endpoint: Path, tmp_path: Path
) -> None:
    document = {"id": "i", "username": "root@example.org", "status": "used"}
    for value in ([document], {"identities": [document]}, {"identity_set": [document]}, document):
        path = write_json(tmp_path / "set.json", value)
        assert "IDENTITY_MAPPED_TO_ROOT" in command.run("map", "e", "--identity-set", f"@{path}").err
    unused = json.dumps([document | {"status": "unused"}])
    assert "its status is 'unused'" in command.run("map", "e", "--identity-set", unused).err
    assert command.run("map", "e").status == 2
    assert command.run("map", "e", "--identity-set", "{").status == 78


def test_render_prints_what_a_user_would_get(command: MepCommand, endpoint: Path, tmp_path: Path) -> None:
    answer = command.run("render", "e", "--options", '{"engine": "ThreadPoolEngine", "max_workers": 3}')
    assert yaml.safe_load(answer.out)["engine"] == {"type": "ThreadPoolEngine", "max_workers": 3}
    path = write_json(tmp_path / "o.json", {"engine": "ThreadPoolEngine"})
    for arguments in (("--options", f"@{path}"), ("--user-options", path), ("-o", path)):
        assert command.run("render", "e", *arguments, "--json").json["engine"]["type"] == "ThreadPoolEngine"


def test_render_takes_the_stock_spelling_and_files_without_an_endpoint(
    command: MepCommand, tmp_path: Path
) -> None:
    template, schema = tmp_path / "t", write_json(tmp_path / "s", {"required": ["n"]})
    template.write_text(
        "engine: {type: ThreadPoolEngine, max_workers: {{ n }} }\n"
        "idle_heartbeats_soft: {{ _GC.mapped_identity.local.uid }}"
    )
    options = write_json(tmp_path / "o", {"n": 2})
    answer = command.run("render-user-config", "-t", template, "-s", schema, "-o", options)
    assert answer.status == 0
    assert yaml.safe_load(answer.out)["idle_heartbeats_soft"] == os.geteuid()
    assert command.run("render-user-config", "-t", template, "-s", schema).status == 65
    identity = write_json(tmp_path / "i", {"local": {"uid": 77}})
    as_other = command.run("render", "-t", template, "-o", options, "--mapped-identity", identity)
    assert yaml.safe_load(as_other.out)["idle_heartbeats_soft"] == 77
    as_daemon = command.run("render", "-t", template, "-o", options, "--user", "daemon")
    assert yaml.safe_load(as_daemon.out)["idle_heartbeats_soft"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["e", "--options", '{"engin": 1}'], 65, "'engin' is not an option here"),
        (["e", "--options", "{"], 65, "OPTIONS_INVALID: --options is not valid JSON"),
        (["e", "--options", "[]"], 65, "wanted an object"),
        (["e", "--options", '{"_GC": 1}'], 65, "OPTIONS_RESERVED"),
        (["e", "--options", "@/nowhere"], 78, "Cannot read /nowhere"),
        (["e", "--user", "no-such-user"], 1, "IDENTITY_NO_ACCOUNT"),
        ([], 2, "Name an endpoint, or give a template"),
    ],
)
def test_render_names_what_is_wrong(
    command: MepCommand, endpoint: Path, arguments: list[str], status: int, says: str
) -> None:
    answer = command.run("render", *arguments)
    assert (answer.status, answer.out) == (status, "")
    assert says in answer.err


def test_version_and_diagnose(command: MepCommand, endpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.run("version", "--json").json["mep"] == __version__
    monkeypatch.setenv("MEP_TOKEN", "planted-secret")
    facts = command.run("diagnose", "--json")
    assert facts.json["endpoints"][0]["name"] == "e"
    assert "MEP_TOKEN" in facts.json["credentials"]
    assert "planted-secret" not in facts.out + command.run("diagnose").out


def test_diagnose_writes_a_compressed_file_on_request(
    command: MepCommand, endpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.etc / "odd name").mkdir()
    (command.etc / "odd name" / "config.yaml").write_text("")
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path)
        name = command.run("diagnose", "-z").out.strip()
    facts = json.loads(gzip.decompress((tmp_path / name).read_bytes()))
    assert [one["name"] for one in facts["endpoints"]] == ["e", "odd name"]
    assert "cannot name an endpoint" in facts["endpoints"][1]["errors"][0]
