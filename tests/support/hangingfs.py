"""File systems that hang, as a home on a server that is away: whoever touches them waits, and cannot be killed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MNT_DETACH = 2
_FUSE_INIT = 26
_OF_NOBODY = (2, 36, 42)  # FUSE_FORGET, _INTERRUPT, _BATCH_FORGET: sent by the kernel itself
_IN_HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, two that are unused
_OUT_HEADER = struct.Struct("<IiQ")
_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Silent:
    """`asked`: the uid of each process that wanted something of the file system, as often as it did."""

    asked: list[int] = field(default_factory=list)


@contextmanager
def silent_home(place: Path, uid: int) -> Iterator[Silent]:
    """Mount a FUSE file system over `place` that answers nothing at all; at the end everybody gets an error."""
    silent = Silent()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40700,user_id={uid},group_id={uid},allow_other"
    if _libc.mount(b"silent", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
        os.close(device)
        raise OSError(ctypes.get_errno(), f"mount fuse on {place}")
    stop, stopped = os.pipe()
    thread = threading.Thread(target=_swallow, args=(device, stop, silent), daemon=True)
    thread.start()
    try:
        yield silent
    finally:
        os.close(stopped)
        thread.join(10)
        os.close(stop)
        os.close(device)  # nobody holds the other end any more: whoever waits gets an error
        _libc.umount2(os.fsencode(place), _MNT_DETACH)


def _swallow(device: int, stop: int, silent: Silent) -> None:
    """Take requests until `stop` ends; answer the first, without which the kernel sends no other."""
    while stop not in select.select([device, stop], [], [])[0]:
        request = os.read(device, 1 << 20)
        _, opcode, unique, _, uid, *_ = _IN_HEADER.unpack_from(request)
        if opcode == _FUSE_INIT:
            body = struct.pack("<IIIIHHII", 7, 31, 4096, 0, 12, 9, 4096, 1) + bytes(36)
            os.write(device, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), 0, unique) + body)
        elif opcode not in _OF_NOBODY:
            silent.asked.append(uid)


class Freezer:
    """A home that works until it is frozen: then each write waits for the thaw."""

    def __init__(self, place: Path) -> None:
        self._fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._frozen = False

    def freeze(self) -> None:
        fcntl.ioctl(self._fd, _FIFREEZE, 0)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            fcntl.ioctl(self._fd, _FITHAW, 0)
            self._frozen = False

    def close(self) -> None:
        self.thaw()
        os.close(self._fd)


@contextmanager
def freezable_home(place: Path, image: Path, uid: int) -> Iterator[Freezer]:
    """Mount an ext4 of 32 MiB, kept in the file `image`, over `place`; it belongs to `uid`."""
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    os.chown(place, uid, uid)
    os.chmod(place, 0o700)
    freezer = Freezer(place)
    try:
        yield freezer
    finally:
        freezer.close()
        subprocess.run(["umount", "-l", place], check=True)
        image.unlink()
