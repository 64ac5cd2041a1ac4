"""What a private node is given: ports that stay, secrets that are kept, nothing of the system's."""

from __future__ import annotations

import socket
from dataclasses import astuple
from pathlib import Path

import pytest

from mep.base.errors import HostError
from mep.relay.rabbitfiles import NodeFiles


def made(base: Path) -> NodeFiles:
    files = NodeFiles(base)
    files.make()
    return files


def test_ports_and_password_stay_over_restarts(tmp_path: Path) -> None:
    ports, password = made(tmp_path).ports(), made(tmp_path).password()
    assert (made(tmp_path).ports(), made(tmp_path).password()) == (ports, password)
    assert len(set(astuple(ports))) == 4
    assert len(password) >= 32


def test_a_port_that_is_taken_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    before = made(tmp_path).ports()
    with socket.create_server(("127.0.0.1", before.management)):
        after = made(tmp_path).ports()
    assert after.management != before.management
    assert (after.amqp, after.distribution, after.epmd) == (before.amqp, before.distribution, before.epmd)
    assert made(tmp_path).ports() == after


def test_a_torn_ports_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"amqp": 2')
    assert len(set(astuple(made(tmp_path).ports()))) == 4


def test_secrets_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    files = made(tmp_path / "node")
    files.write(files.ports())
    files.write(files.ports())  # at each start: the cookie, mode 0400, must not be in the way
    for name in ("password", "rabbitmq.conf", "home/.erlang.cookie"):
        assert (tmp_path / "node" / name).stat().st_mode & 0o077 == 0
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_the_environment_has_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEP_TOKEN", "secret")
    monkeypatch.setenv("RABBITMQ_NODENAME", "system")
    files = made(tmp_path)
    environment = files.environment(files.ports(), notify="/n")
    assert "MEP_TOKEN" not in environment
    assert environment["RABBITMQ_NODENAME"] == "mep@localhost"
    assert environment["HOME"].startswith(str(tmp_path))
    assert files.password() not in str(environment)


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="Cannot use"):
        NodeFiles(tmp_path / "file" / "node").make()
