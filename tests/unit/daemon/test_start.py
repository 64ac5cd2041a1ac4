"""What comes before the monitor: lock, credentials, and where they come from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mep.base.errors import HostError, InputError, RefusedError
from mep.config.paths import EndpointPaths
from mep.daemon.credentials import open_credentials, take_from_environment
from mep.daemon.lock import EndpointLock
from mep.daemon.relayclient import read_credentials
from mep.priv import clone


def test_one_holder_who_is_named(tmp_path: Path) -> None:
    first, second = EndpointLock(tmp_path), EndpointLock(tmp_path)
    assert not first.is_held()
    first.take()
    first.sign()
    assert second.is_held()
    with pytest.raises(RefusedError, match=f"pid {os.getpid()} on"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    readable, writable = os.pipe()

    def hold() -> int:
        EndpointLock(tmp_path).take()
        os.write(writable, b"x")
        os.read(readable, 0)
        while True:
            os.kill(os.getpid(), 19)

    child = clone.spawn(hold)
    os.read(readable, 1)
    lock = EndpointLock(tmp_path)
    assert lock.is_held()
    clone.kill(child.pidfd)
    clone.reap(child.pidfd, block=True)
    lock.wait_released()
    lock.take()
    lock.release()
    for fd in (child.pidfd, readable, writable):
        os.close(fd)


@pytest.mark.parametrize("prefix", ["MEP", "GLOBUS_COMPUTE"])
def test_credentials_leave_the_environment(prefix: str) -> None:
    environment = {f"{prefix}_CLIENT_ID": "me", f"{prefix}_CLIENT_SECRET": "s3cret", "MEP_TOKEN": "t", "PATH": "/"}
    fd = take_from_environment(environment)
    assert environment == {"PATH": "/"}
    found = read_credentials(fd)
    assert found.client_id == "me"
    assert found.client_secret is not None
    assert found.client_secret.reveal() == "s3cret"
    assert "s3cret" not in repr(found)


def test_a_token_alone_serves_and_half_a_pair_does_not() -> None:
    found = read_credentials(take_from_environment({"MEP_TOKEN": "t0ken"}))
    assert found.token is not None
    assert found.token.reveal() == "t0ken"
    assert take_from_environment({"PATH": "/"}) == -1
    with pytest.raises(InputError, match="MEP_CLIENT_SECRET is not set"):
        take_from_environment({"MEP_CLIENT_ID": "me"})


def test_without_credentials_it_says_so() -> None:
    with pytest.raises(RefusedError, match="NOT_LOGGED_IN"):
        read_credentials(-1)
    fd = os.memfd_create("x")
    os.write(fd, b"not json")
    with pytest.raises(RefusedError, match="NOT_LOGGED_IN"):
        read_credentials(fd)


def test_the_state_folders_credentials_must_be_private(tmp_path: Path) -> None:
    paths = EndpointPaths.locate("site", tmp_path, privileged=True)
    paths.state_dir.mkdir(parents=True)
    assert open_credentials(paths, os.geteuid()) == -1
    file = paths.state_dir / "credentials.json"
    file.write_text(json.dumps({"client_id": "me", "client_secret": "s3cret"}))
    file.chmod(0o644)
    with pytest.raises(HostError, match="CONFIG_UNTRUSTED"):
        open_credentials(paths, os.geteuid())
    file.chmod(0o600)
    assert read_credentials(open_credentials(paths, os.geteuid())).client_id == "me"
