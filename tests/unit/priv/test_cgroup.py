"""Finding our own cgroup on pure, hybrid and foreign machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from mep.priv import cgroup

PURE = "25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "30 25 0:26 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    "32 30 0:28 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory\n"
)
ODD = "25 1 0:23 / /mnt/my\\040groups rw - cgroup2 none rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "path"),
    [(PURE, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified"), (ODD, "/mnt/my groups")],
)
def test_the_unified_mount(mountinfo: str, path: str) -> None:
    assert cgroup._unified_mount(mountinfo) == Path(path)


def test_a_machine_without_cgroup2_has_none() -> None:
    assert cgroup._unified_mount("32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/mep@site.service\n", "/system.slice/mep@site.service"),
        ("5:memory:/x\n0::/\n", "/"),
        ("5:memory:/x\n", None),
        ("0::/../outside\n", None),
    ],
)
def test_our_own_path(text: str, path: str | None) -> None:
    assert cgroup._own_path(text) == path


def test_one_that_could_not_be_removed_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "uep" / "user").mkdir(parents=True)
    made = cgroup.Cgroup(tmp_path / "uep")
    assert list(made.path.iterdir()) == [], "what the one before has counted is not ours"
    assert made.remove()


def test_endpoints_of_one_name_have_trees_of_their_own(tmp_path: Path) -> None:
    one, other = (cgroup.Tree(tmp_path, "site", state).root for state in ("/var/lib/mep/site", "/home/x/site"))
    assert one != other
    assert one.name.startswith("mep-site-")
    assert cgroup.Tree(tmp_path, "../../evil name", "x").root.parent == tmp_path
