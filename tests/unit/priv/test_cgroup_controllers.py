"""Handing controllers down, on folders that look like a kernel's: the kernel itself is asked in tests/vm."""

from __future__ import annotations

import os
from pathlib import Path

from mep.priv import cgroup


def base_with(tmp_path: Path, *, procs: str, controllers: str = "cpu memory pids io") -> cgroup.Tree:
    """Return a tree below a made-up cgroup in which `procs` live."""
    (tmp_path / "cgroup.controllers").write_text(controllers)
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.procs").write_text(procs)
    return cgroup.Tree(tmp_path, "site", "unique")


def test_a_cgroup_in_which_others_live_is_left_alone(tmp_path: Path) -> None:
    tree = base_with(tmp_path, procs=f"1\n{os.getpid()}\n")
    assert tree.enable_controllers() == frozenset()
    assert (tmp_path / "cgroup.subtree_control").read_text() == ""
    assert not (tmp_path / "mep-daemon").exists()


def test_the_daemon_leaves_its_cgroup_before_that_hands_anything_down(tmp_path: Path) -> None:
    tree = base_with(tmp_path, procs=f"{os.getpid()}\n")
    assert tree.enable_controllers() == frozenset(), "it still lives there: this is no kernel"
    assert (tmp_path / "mep-daemon" / "cgroup.procs").read_text() == "0"
    assert (tmp_path / "cgroup.subtree_control").read_text() == ""


def test_without_controllers_nobody_moves(tmp_path: Path) -> None:
    tree = base_with(tmp_path, procs=f"{os.getpid()}\n", controllers="")
    assert tree.enable_controllers() == frozenset()
    assert not (tmp_path / "mep-daemon").exists()


def test_check_does_not_promise_what_a_shell_in_the_same_cgroup_prevents(tmp_path: Path) -> None:
    base_with(tmp_path, procs=f"1\n{os.getpid()}\n")
    assert cgroup.attainable(tmp_path) == frozenset()
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert cgroup.attainable(tmp_path) == {"cpu", "memory", "pids"}
    (tmp_path / "cgroup.type").unlink()
    (tmp_path / "cgroup.procs").write_text("1\n")
    assert cgroup.attainable(tmp_path) == {"cpu", "memory", "pids"}, "the topmost may have processes"


def test_one_controller_that_the_kernel_refuses_keeps_no_other_away(tmp_path: Path) -> None:
    written: list[str] = []

    class Kernel(type(Path())):  # type: ignore[misc]
        """A control file that refuses cpu."""

        def write_text(self, data: str, *_: object, **__: object) -> int:
            if data == "+cpu":
                raise OSError(22, "real-time processes")
            written.append(data)
            return len(data)

    base_with(tmp_path, procs="")
    cgroup._hand_down(Kernel(tmp_path))
    assert written == ["+memory", "+pids"]
