"""A disk that forgets at a power cut what nobody asked it to keep.

Put `Disk` where the code under test has its `os`. Bytes are kept by fsync and fdatasync of their file. Names (of
new files, and after a rename) are kept by fsync of their folder; without it a real file system may keep the old or
the new ones: `cut` is told which.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any


class PowerCut(Exception):
    """The step that was to come is not done any more."""


class Disk:
    """As the module `os`, for the files of one folder. `calls`: what was done to them, in order.

    `fails`: a call that is refused from now on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.folders: list[str] = []  # whose names were synced, wherever they are
        self.fails = ""
        self.ends_before: int | None = None  # the power goes before the call of this number
        self._bytes: dict[int, bytes] = {}  # kept, by inode
        self._names: dict[str, int] = {}  # kept
        self._paths: dict[int, str] = {}  # of open files

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    # ---- what is done to it ----

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        is_new = not os.path.lexists(path)
        if is_new:
            self._step("create", path)
        fd = os.open(path, flags, mode)
        if is_new:
            self._bytes.pop(os.fstat(fd).st_ino, None)  # a number that a removed file had before
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes) -> int:
        self._step("write", self._paths.get(fd, ""))
        return os.write(fd, data)

    def pwrite(self, fd: int, data: bytes, at: int) -> int:
        self._step("write", self._paths.get(fd, ""))
        return os.pwrite(fd, data, at)

    def ftruncate(self, fd: int, size: int) -> None:
        self._step("truncate", self._paths.get(fd, ""))
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        self._step("sync", self._paths.get(fd, ""))
        status = os.fstat(fd)
        if not stat.S_ISDIR(status.st_mode):
            self._bytes[status.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()
            return
        self.folders.append(self._paths.get(fd, ""))
        if Path(self.folders[-1]) == self.folder:
            self._names = self._names_now()

    def replace(self, old: str, new: str) -> None:
        self._step("rename", old)
        os.replace(old, new)

    # ---- the power goes ----

    def cut(self, *, new_names: bool = False) -> None:
        """Leave what a machine finds when it has power again. `new_names`: by chance the last ones were kept."""
        names = self._names_now() if new_names else self._names
        found = {name: self._bytes.get(inode, b"") for name, inode in names.items()}
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()
        for name, content in found.items():
            (self.folder / name).write_bytes(content)
        self._names = self._names_now()
        self._bytes = {inode: found[name] for name, inode in self._names.items()}

    def _names_now(self) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in self.folder.iterdir() if path.is_file()}

    def _step(self, what: str, path: str) -> None:
        if self.folder not in (Path(path), Path(path).parent):
            return
        if len(self.calls) == self.ends_before:
            raise PowerCut
        where = "folder" if Path(path) == self.folder else os.path.basename(path)
        if self.fails == f"{what} {where}":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        self.calls.append(f"{what} {where}")
