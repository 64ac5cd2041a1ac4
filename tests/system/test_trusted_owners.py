"""What steers root belongs to root: a file, or a link on the way to one, that somebody else made is refused."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from mep.base.errors import HostError
from mep.host.trusted import check_command, read_trusted


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


@pytest.mark.parametrize(
    "command",
    [
        "{roots} of {alices}",
        "{roots} of /usr/bin/env {alices} -u",
        "{roots} of {other} of {alices}",
        "/bin/sh {roots} /dev/null of {alices}",
        "/usr/bin/python3 {folder}",
        "/usr/bin/env --chdir={folder} sh",
        "/usr/bin/python3 {open}",
    ],
)
def test_a_command_is_as_safe_as_all_that_it_runs(open_dir: Path, command: str) -> None:
    """Interpreters of scripts, scripts and folders among the arguments: until alice can change nothing of it."""
    alice = pwd.getpwnam("alice").pw_uid
    places = {name: open_dir / name for name in ("roots", "other", "alices", "folder", "open")}
    for name in ("folder", "open"):
        places[name].mkdir(mode=0o755)
    command, *interpreters = command.format(**places).split(" of ")
    scripts = [places["roots"], places["other"]]
    for script, interpreter in zip(scripts, [*interpreters, "/bin/sh"], strict=False):
        script.write_text(f"#! {interpreter}\n")
        script.chmod(0o755)
    places["alices"].write_bytes(b"\x7fELF")
    places["alices"].chmod(0o755)
    check_command(command.split())
    os.chown(places["alices"], alice, alice)
    os.chown(places["folder"], alice, alice)
    places["open"].chmod(0o1777)
    with pytest.raises(HostError) as caught:
        check_command(command.split())
    assert caught.value.code == "CONFIG_UNTRUSTED"
    assert any(str(places[name]) in caught.value.admin_text for name in ("alices", "folder", "open"))


def test_interpreters_that_run_each_other_have_an_end(open_dir: Path) -> None:
    script = open_dir / "map"
    script.write_text(f"#!{script}\n")
    script.chmod(0o755)
    with pytest.raises(HostError, match="CONFIG_UNTRUSTED"):
        check_command([str(script)])
