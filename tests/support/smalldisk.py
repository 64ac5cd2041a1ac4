"""A file system that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tiny_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB at `place`."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def use_up(place: Path, *partly: Path) -> Path:
    """Leave no byte, none in the last blocks of `partly` either; return what takes the room."""
    for path in partly:
        with path.open("ab") as file:
            file.write(b"\n" * (-path.stat().st_size % 4096))
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast
