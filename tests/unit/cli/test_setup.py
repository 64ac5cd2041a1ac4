from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from mep.config.endpoint import load_endpoint_config
from support.cli import MepCommand, mapping_file, write_json

FOR_ROOT = os.geteuid() == 0


def test_configure_writes_an_endpoint_that_passes_check(command: MepCommand, endpoint: Path) -> None:
    assert sorted(p.name for p in endpoint.iterdir()) == [
        "config.yaml",
        "identity_mapping.json",
        "user_config_schema.json",
        "user_config_template.yaml.j2",
        "user_environment.yaml",
    ]
    answer = command.run("check", "e")
    assert answer.status == 0, answer.out


def test_its_files_are_the_owners_alone(endpoint: Path) -> None:
    assert stat.S_IMODE(endpoint.stat().st_mode) == 0o700
    for path in endpoint.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert path.stat().st_uid == os.geteuid()


def test_what_was_given_is_what_is_in_force(command: MepCommand, tmp_path: Path) -> None:
    answer = command.run(
        "configure", "n", "--relay", "https://r.example", "--display-name", "Ünï: 'x'",
        "--contact-email", "a@b.example", "--high-assurance", "--gate-user", "daemon", "--json",
        "--id-mapping-config", mapping_file(tmp_path),
    )  # fmt: skip
    assert answer.status == 0
    assert answer.json["name"] == "n"
    config = load_endpoint_config((command.etc / "n" / "config.yaml").read_text(), source="c")
    assert (config.relay, config.display_name, config.email, config.high_assurance, config.gate_user) == (
        "https://r.example", "Ünï: 'x'", "a@b.example", True, "daemon",
    )  # fmt: skip


def test_it_never_touches_a_folder_that_exists(command: MepCommand, endpoint: Path) -> None:
    before = {path.name: path.read_text() for path in endpoint.iterdir()}
    answer = command.run("configure", "e", "--relay", "http://other")
    assert answer.status == 1
    assert answer.err.startswith("mep: ENDPOINT_EXISTS: ")
    assert {path.name: path.read_text() for path in endpoint.iterdir()} == before


def test_files_of_ones_own_by_our_and_by_the_stock_names(command: MepCommand, tmp_path: Path) -> None:
    template = tmp_path / "t.j2"
    template.write_text("engine: {type: ThreadPoolEngine}\n")
    schema = write_json(tmp_path / "s.json", {"type": "object", "additionalProperties": False})
    environment = tmp_path / "env.yaml"
    environment.write_text("A: b\n")
    core = tmp_path / "config.yaml"
    core.write_text("display_name: mine\nrelay: http://r\n")
    mapping = mapping_file(tmp_path)
    for name, flags in (("ours", ("--template", "--schema")), ("stock", ("--template-config", "--schema-config"))):
        answer = command.run(
            "configure", name, flags[0], template, flags[1], schema, "--user-env-config", environment,
            "--core-config", core, "--id-mapping-config", mapping,
        )  # fmt: skip
        assert answer.status == 0, answer.err
        folder = command.etc / name
        assert (folder / "user_config_template.yaml.j2").read_text() == template.read_text()
        assert (folder / "config.yaml").read_text() == core.read_text()
        assert (folder / "identity_mapping.json").read_text() == mapping.read_text()


def test_a_template_of_ones_own_does_not_get_the_default_schema(command: MepCommand, tmp_path: Path) -> None:
    template = tmp_path / "t.j2"
    template.write_text("engine: {type: ThreadPoolEngine, max_workers: {{ n }}}\n")
    assert command.run("configure", "n", "--template", template, "--relay", "http://r").status == 0
    assert not (command.etc / "n" / "user_config_schema.json").exists()


@pytest.mark.parametrize(
    ("flag", "content", "status", "says"),
    [
        ("--template", "{% if %}", 65, "TEMPLATE_INVALID"),
        ("--schema", "{", 78, "is not valid JSON"),
        ("--schema", '{"type": "nonsense"}', 65, "SCHEMA_INVALID"),
        ("--user-env-config", "A: [1]", 78, "wanted one text"),
        ("--id-mapping-config", "{}", 78, "DATA_TYPE"),
        ("--core-config", "relai: http://x", 78, "Did you mean 'relay'?"),
    ],
)
def test_a_wrong_file_leaves_nothing_behind(
    command: MepCommand, tmp_path: Path, flag: str, content: str, status: int, says: str
) -> None:
    path = tmp_path / "given"
    path.write_text(content)
    answer = command.run("configure", "n", flag, path)
    assert answer.status == status
    assert says in answer.err
    assert str(path) in answer.err
    assert not command.etc.exists() or not list(command.etc.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["a b"], 2, "cannot name an endpoint"),
        (["0123abcd-0000-4000-8000-000000000001"], 2, "cannot be named by a UUID"),
        (["n", "--relay", "nowhere"], 78, 'mep configure: relay: found "nowhere", wanted an address'),
        (["n", "--auth-policy", "x"], 78, 'authentication_policy: found "x", wanted a UUID'),
        (["n", "--template", "/nowhere"], 2, "'/nowhere' does not exist"),
        (["n", "--multi-user", "no" if FOR_ROOT else "yes"], 2, "is configured by"),
    ],
)
def test_wrong_arguments_are_named(command: MepCommand, arguments: list[str], status: int, says: str) -> None:
    answer = command.run("configure", *arguments)
    assert answer.status == status
    assert says in answer.err


@pytest.mark.skipif(not FOR_ROOT, reason="needs root")
def test_root_is_warned_that_nobody_is_mapped(command: MepCommand) -> None:
    answer = command.run("configure", "n", "--relay", "http://r")
    assert answer.status == 0
    assert "Nobody is mapped yet" in answer.err


@pytest.mark.skipif(not FOR_ROOT, reason="needs root")
@pytest.mark.parametrize("below", ["", "not/there/yet"])
def test_root_configures_nothing_where_others_can_change_it(command: MepCommand, below: str) -> None:
    command.etc.mkdir(mode=0o777)
    command.etc.chmod(0o777)
    place = command.etc / below
    answer = command.run("--config-dir", str(place), "configure", "n", "--relay", "http://r")
    assert answer.status == 77
    assert "CONFIG_UNTRUSTED: Nothing was written" in answer.err
    assert f"{command.etc} can be written by" in answer.err
    assert "--config-dir /etc/mep" in answer.err
    assert list(command.etc.iterdir()) == []


@pytest.mark.skipif(not FOR_ROOT, reason="needs root")
def test_root_configures_nothing_in_a_users_folder(command: MepCommand) -> None:
    command.etc.mkdir()
    os.chown(command.etc, 20001, 20001)
    answer = command.run("configure", "n", "--relay", "http://r")
    assert answer.status == 77
    assert "belongs to uid 20001" in answer.err
    assert list(command.etc.iterdir()) == []


@pytest.mark.skipif(not FOR_ROOT, reason="needs root")
def test_root_does_not_believe_an_id_that_others_can_change(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "endpoint.json").write_text('{"endpoint_id": "0123abcd-0000-4000-8000-000000000001"}')
    (endpoint / "endpoint.json").chmod(0o666)
    [row] = command.run("list", "--json").json
    assert row["endpoint_id"] == ""
    assert "endpoint.json can be written by" in row["problem"]
    assert command.run("delete", "e", "--yes").status == 77
    assert endpoint.exists()
    assert command.run("delete", "e", "--yes", "--force").status == 0
    assert not endpoint.exists()


def test_list_shows_every_endpoint_also_a_broken_one(command: MepCommand, endpoint: Path) -> None:
    (command.etc / "broken").mkdir()
    (command.etc / "broken" / "config.yaml").write_text("relai: x")
    (endpoint / "endpoint.json").write_text('{"endpoint_id": "0123abcd-0000-4000-8000-000000000001"}')
    broken, good = command.run("list", "--json").json
    assert (good["name"], good["endpoint_id"], good["state"], good["relay"], good["problem"]) == (
        "e", "0123abcd-0000-4000-8000-000000000001", "stopped", "http://127.0.0.1:5000", "",
    )  # fmt: skip
    assert "Did you mean 'relay'?" in broken["problem"]
    table = command.run("list")
    assert "0123abcd-0000-4000-8000-000000000001" in table.out
    assert "mep: broken: CONFIG_UNKNOWN_KEY" in table.err


def test_list_says_where_it_looked_when_there_is_nothing(command: MepCommand) -> None:
    assert f"No endpoint is configured in {command.etc}" in command.run("list").out
    assert command.run("list", "--json").json == []


def test_the_folder_comes_from_the_option_else_the_environment(
    command: MepCommand, endpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEP_CONFIG_DIR", str(command.etc))
    assert [one["name"] for one in command.bare("list", "--json").json] == ["e"]
    assert command.bare("-c", tmp_path / "other", "list", "--json").json == []


def test_an_endpoint_can_be_named_by_its_id(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "endpoint.json").write_text('{"endpoint_id": "0123abcd-0000-4000-8000-000000000001"}')
    assert command.run("render", "0123abcd-0000-4000-8000-000000000001").status == 0


def test_delete_removes_everything_of_an_endpoint_that_was_never_registered(
    command: MepCommand, endpoint: Path
) -> None:
    (endpoint / ".mep").mkdir()
    (endpoint / ".mep" / "key").write_text("x")
    answer = command.run("delete", "e", "--yes")
    assert answer.status == 0
    assert not endpoint.exists()


def test_delete_asks_first(command: MepCommand, endpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    answer = command.run("delete", "e")
    assert answer.status == 130
    assert endpoint.exists()


def test_delete_without_credentials_says_that_the_relay_was_not_told(command: MepCommand, endpoint: Path) -> None:
    (endpoint / "endpoint.json").write_text('{"endpoint_id": "0123abcd-0000-4000-8000-000000000001"}')
    answer = command.run("delete", "e", "--yes")
    assert answer.status == 0
    assert "the relay was not told about 0123abcd" in answer.err


def test_delete_refuses_while_the_endpoint_runs(command: MepCommand, endpoint: Path) -> None:
    import socket

    run_dir = endpoint / ".mep"
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(run_dir, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/control.sock")
        os.close(folder)
        listener.listen()
        answer = command.run("delete", "e", "--yes")
    assert answer.status == 1
    assert "ALREADY_RUNNING" in answer.err
    assert endpoint.exists()
    assert command.run("list", "--json").json[0]["state"] == "stopped", "a socket that nobody listens at"


def test_the_default_name_is_default(command: MepCommand) -> None:
    assert command.run("configure", "--relay", "http://r").status == 0
    assert (command.etc / "default" / "config.yaml").exists()
    assert json.loads(command.run("list", "--json").out)[0]["name"] == "default"
