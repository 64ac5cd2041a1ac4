"""`mep relay ...` at the command line: what goes wrong is one line that says what to do."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from support.program import Program, clean_environment, mep, run
from support.relay import Relay, free_port
from support.wait import until


def refused(*arguments: str | Path, status: int) -> str:
    """Run a command that must fail with that status; return its one line."""
    done = run(mep("relay", *arguments), env=clean_environment(), check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("listen", ["5000", "host:", "127.0.0.1:x", "127.0.0.1:99999"])
def test_a_bad_listen_address_is_named(tmp_path: Path, listen: str) -> None:
    assert listen in refused("serve", "--data-dir", tmp_path, "--listen", listen, status=2)


def test_a_port_in_use_is_said_to_be(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused("serve", "--data-dir", tmp_path / "d", "--listen", where, status=2)
    assert where in line
    assert "in use" in line


def test_a_data_directory_that_is_a_file_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused("token", "--data-dir", tmp_path / "file" / "x", "alice@example.org", status=78)
    assert "file" in line


def test_an_unknown_account_is_said_to_be_unknown(tmp_path: Path) -> None:
    line = refused("user", "revoke", "--data-dir", tmp_path, "nobody@example.org", status=69)
    assert "nobody@example.org" in line
    assert "user list" in line


def test_accounts_are_listed_as_a_table_and_as_json(tmp_path: Path) -> None:
    run(mep("relay", "token", "--data-dir", tmp_path, "alice@example.org"), env=clean_environment())
    command = mep("relay", "user", "list", "--data-dir", tmp_path)
    assert "alice@example.org" in run(command, env=clean_environment()).stdout
    (found,) = json.loads(run([*command, "--json"], env=clean_environment()).stdout)
    assert found["username"] == "alice@example.org"


def test_a_relay_that_is_told_to_stop_ends_cleanly_with_its_broker(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay").start()
    assert relay.program is not None
    children = psutil.Process(relay.program.pid).children(recursive=True)
    assert children, "it has a broker"
    assert relay.program.stop() == 0
    until(lambda: not any(child.is_running() for child in children), "its broker is gone")


def test_a_broker_that_is_away_is_waited_for_and_told(tmp_path: Path) -> None:
    port = free_port()
    relay = Program.start(
        mep("relay", "serve", "--data-dir", tmp_path / "relay", "--listen", f"127.0.0.1:{port}"),
        log=tmp_path / "log",
        env=clean_environment(extra={"MEP_RELAY_BROKER_URL": f"amqp://u:secret-word@127.0.0.1:{free_port()}/"}),
    )
    try:
        until(lambda: "BROKER_UNREACHABLE" in relay.text(), "the log says it")
        health = httpx.get(f"http://127.0.0.1:{port}/healthz")
        assert health.status_code == 503
        assert "BROKER_UNREACHABLE" in health.json()["reason"]
        assert relay.running, "it tries again"
    finally:
        status = relay.stop()
    assert status == 0
    assert "secret-word" not in relay.text()
    assert "Traceback" not in relay.text()


def test_a_broken_key_is_said_to_be_broken(tmp_path: Path) -> None:
    run(mep("relay", "rotate-key", "--data-dir", tmp_path), env=clean_environment())
    (tmp_path / "keys" / "start-1.pem").write_text("garbage")
    assert "start-1.pem" in refused("serve", "--data-dir", tmp_path, "--listen", "127.0.0.1:0", status=78)


def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "relay.db").write_text("something else " * 100)
    assert "not a database" in refused("token", "--data-dir", tmp_path, "alice@example.org", status=78)
    assert "not a database" in refused("serve", "--data-dir", tmp_path, "--listen", "127.0.0.1:0", status=78)
    command = ("token", "--data-dir", tmp_path, "--database-url", "nonsense", "alice@example.org")
    assert "--database-url" in refused(*command, status=78)
