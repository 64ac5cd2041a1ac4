"""Homes and starters that are unusual, and not wrong: it works, or says with a code and a path why not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.program import Program, mep, run
from support.remote import WAIT_S, by_source, process_id, refusal
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE = "alice@example.org"
ENGINES = """\
engine:
  type: {{ engine | default("ThreadPoolEngine") }}
{% if engine | default("") == "GlobusComputeEngine" %}
  address: 127.0.0.1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}
{% endif %}
display_name: {{ n | default("none") }}
"""


@contextmanager
def home_with(options: str) -> Iterator[Path]:
    """Alice's home on a file system mounted with these options."""
    home = Path("/home/alice")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},uid=20001,mode=0700", "tmpfs", home], check=True)
    try:
        yield home
    finally:
        subprocess.run(["umount", "-l", home], check=True)


def use_up(home: Path) -> list[Path]:
    """Make empty files until there is no inode left."""
    made: list[Path] = []
    try:
        while len(made) < 10_000:
            one = home / f"empty-{len(made)}"
            one.touch()
            made.append(one)
    except OSError:
        return made
    raise AssertionError("inodes without end")


def test_a_home_without_an_inode_left_keeps_what_runs_and_names_what_it_cannot_begin(
    endpoint: MakeEndpoint, sdk_env: SdkEnv
) -> None:
    with home_with("nr_inodes=200") as home:
        site = endpoint(template=ENGINES)
        sdk_env(ALICE)
        with by_source(site.id) as executor:
            first = executor.submit(process_id).result(WAIT_S)
            made = use_up(home)
            assert executor.submit(process_id).result(WAIT_S) == first
            text = refusal(site, user_endpoint_config={"n": "second"})
            assert text.startswith("HOME_NOT_WRITABLE"), text
            assert "/home/alice" in text
            assert "HOME_NOT_WRITABLE" in str(site.mep("status", site.name).stdout)
            for one in made:
                one.unlink()
        with by_source(site.id, user_endpoint_config={"n": "second"}) as executor:
            assert executor.submit(process_id).result(WAIT_S) != first
        site.stop()
        assert "Traceback" not in site.log_text()


def test_a_home_where_nothing_can_be_executed_is_good_enough(endpoint: MakeEndpoint, sdk_env: SdkEnv) -> None:
    with home_with("noexec") as home:
        site = endpoint(template=ENGINES)
        sdk_env(ALICE)
        for engine in ("ThreadPoolEngine", "ProcessPoolEngine", "GlobusComputeEngine"):
            with by_source(site.id, user_endpoint_config={"engine": engine}) as executor:
                assert executor.submit(process_id).result(WAIT_S) > 0
        assert len(site.user_endpoints()) == 3
        assert any(home.iterdir())
        site.stop()


@pytest.mark.parametrize(("who", "umask"), [("", "000"), ("carol", "777")])
def test_whatever_the_umask_of_who_starts_it_files_have_the_same_modes(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, umask: str, who: str
) -> None:
    """Configured and started, by root and by an ordinary user."""
    modes = {}
    for name, mask in (("usual", "022"), ("odd", umask)):
        site = endpoint(name, user=who, start=False)
        masked = ["/bin/sh", "-c", f'umask {mask} && exec "$@"', "sh", *mep("--config-dir", site.config_dir)]
        run([*masked, "configure", f"{name}-new", "--relay", site.relay.url], env=site.environment(), user=who)
        site.program = Program.start(
            [*masked, "start", name], log=site.config_dir / f"{name}.log", env=site.environment(), user=who
        )
        until(site._is_up, "it is up", timeout_s=30.0)
        modes[name] = [modes_below(site.config_dir / f"{name}-new"), modes_below(site.state_dir)]
        if not who:  # without root only the owner is served
            sdk_env(ALICE)
            with by_source(site.id) as executor:
                modes[name].append({"a user's": executor.submit(mode_of_a_new_file).result(WAIT_S)})
        site.stop()
    assert modes["odd"] == modes["usual"]
    assert {mode & 0o077 for mode in modes["odd"][1].values()} == {0}


def modes_below(folder: Path) -> dict[str, int]:
    """Return the permissions of the folder, and of what is in it."""
    below = {str(path.relative_to(folder)): path.stat().st_mode & 0o7777 for path in folder.rglob("*")}
    return below | {".": folder.stat().st_mode & 0o7777}


def mode_of_a_new_file() -> int:
    """Runs in the user endpoint."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = os.open(os.path.join(folder, "new"), os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            return os.fstat(made).st_mode & 0o7777
        finally:
            os.close(made)
