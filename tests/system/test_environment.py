"""What ./dev installs can be read and run by every local user, whatever the umask of who installed it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mep as package
from support.program import clean_environment, mep, run


def test_every_file_of_the_environment_is_readable_for_all() -> None:
    environment = Path(sys.executable).parent.parent
    closed = []
    for folder, folders, files in os.walk(environment):
        for name in (*folders, *files):
            path = Path(folder, name)
            wanted = 0o005 if path.is_dir() else 0o004
            if not path.is_symlink() and path.stat().st_mode & wanted != wanted:
                closed.append(str(path))
    assert not closed[:5]


def test_every_folder_above_the_package_can_be_traversed_by_all() -> None:
    for folder in Path(package.__file__).resolve().parents:
        assert folder.stat().st_mode & 0o001, f"{folder} is closed to other users"


def test_another_user_runs_the_program() -> None:
    done = run(mep("version"), env=clean_environment("carol"), user="carol")
    assert package.__version__ in done.stdout
