"""What steers root belongs to root: a file, or a link on the way to one, that somebody else made is refused."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from mep.base.errors import HostError
from mep.host.trusted import read_trusted


def refusal(path: Path) -> str:
    with pytest.raises(HostError) as caught:
        read_trusted(path)
    assert caught.value.code == "CONFIG_UNTRUSTED"
    return caught.value.admin_text


def test_a_file_of_somebody_else_is_refused_by_name_and_owner(open_dir: Path) -> None:
    path, alice = open_dir / "config.yaml", pwd.getpwnam("alice").pw_uid
    path.write_text("{}")
    path.chmod(0o644)
    assert read_trusted(path) == "{}"
    os.chown(path, alice, alice)
    assert f"{path} belongs to uid {alice}; wanted uid 0" in refusal(path)


def test_a_link_of_somebody_else_is_refused_wherever_it_leads(open_dir: Path) -> None:
    path, alice = open_dir / "config.yaml", pwd.getpwnam("alice").pw_uid
    path.write_text("{}")
    path.chmod(0o644)
    shared = open_dir / "shared"  # as /tmp is: others may add names
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "config.yaml"
    link.symlink_to(path)
    assert read_trusted(link) == "{}"
    os.chown(link, alice, alice, follow_symlinks=False)
    assert f"{link} belongs to uid {alice}; wanted uid 0" in refusal(link)
