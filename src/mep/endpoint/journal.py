"""The user endpoint's memory of tasks that outlives it: an append-only file in the user's own directory.

Made for network file systems: one writer, plain writes at a known offset, fsync, rename; no locks but one POSIX
lock, no memory map, no database. A record is `<length><crc32>` and msgpack; a torn end is cut off on opening.

`write` puts records into the kernel's hands: they survive a kill -9 of this process. `sync` puts them on disk, and
the names that lead to them: they survive the machine. Who calls when: see `ledger`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from mep.base.codes import Code
from mep.base.errors import HostError
from mep.endpoint.numbers import Kept, Numbers
from mep.wire.decoding import INVALID

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<II")
_MAGIC = b"mep-journal-1\n"
_COMPACT_ABOVE_BYTES = 1024 * 1024
_KEPT_IDS = 1000  # of forgotten tasks, over a compaction: more than can be delivered and not acknowledged
_LOCK_AGAIN_S = 0.05
_LOCKED = {errno.EACCES, errno.EAGAIN}
_FOLDERS = 5  # whose names lead to a journal below ~/.local/state/mep/<id>: the home's is the last
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}  # of a folder: not here, or not by us
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Accepted(Struct, frozen=True, array_like=True, tag=1):
    """A task that is ours now. The whole call, so that a next user endpoint can run it.

    `sender` and `number`: which sealed message brought it; b"" and 0 for one in stock form.
    """

    task_id: str
    function_id: str
    buffer: str
    resources: dict[str, object]
    serializers: list[str]
    sender: bytes = b""
    number: int = 0


class Started(Struct, frozen=True, array_like=True, tag=2):
    """The task was handed to a worker: it may have had effects from here on."""

    task_id: str
    at_s: float


class Finished(Struct, frozen=True, array_like=True, tag=3):
    """The task's result, as it goes to the broker."""

    task_id: str
    code: str
    body: bytes


class Forgotten(Struct, frozen=True, array_like=True, tag=4):
    """The broker has these tasks' results. Their ids are kept for a while, to recognise a late redelivery."""

    task_ids: list[str]


class Taken(Struct, frozen=True, array_like=True, tag=5):
    """Sealed messages that were taken without a task: all of before a compaction, or single ones."""

    senders: list[Kept]


Record = Accepted | Started | Finished | Forgotten | Taken

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Journal:
    """An open journal. All methods raise HostError(JOURNAL_FULL) when the file system takes no more.

    A failed write leaves the file as it was before it.
    """

    def __init__(self, path: str, *, wait_for_lock_s: float = 10.0) -> None:
        self.path = path
        self._lock = _take_lock(path + ".lock", wait_for_lock_s)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = 0
        self._dirty = False
        self._unnamed = True  # the first sync of each life is of the names too: who made them may have been killed
        self._places: dict[str, list[tuple[int, int]]] = {}  # where a live task's records are
        self._past: deque[str] = deque(maxlen=_KEPT_IDS)
        self.taken = Numbers()  # sealed messages: kept for ever, over compactions too
        self.last_sync_s = 0.0

    @property
    def dirty(self) -> bool:
        """Tell whether something is written and not yet on disk."""
        return self._dirty

    @property
    def wasteful(self) -> bool:
        """Tell whether most of the file is history; the next `sync` will compact it."""
        return self._end > _COMPACT_ABOVE_BYTES and self._end > 4 * self._live_bytes()

    def recover(self) -> Iterator[Record]:
        """Yield every record, oldest first; cut off a torn end. Call once, before the first write.

        What is found counts as written, not as on disk: who wrote it may have been killed before its sync.
        """
        size = os.fstat(self._fd).st_size
        if size < len(_MAGIC) or os.pread(self._fd, len(_MAGIC), 0) != _MAGIC:
            if size >= len(_MAGIC):
                os.replace(self.path, self.path + ".unreadable")
                log.warning("journal: %s is not one of ours; set aside as %s.unreadable", self.path, self.path)
                os.close(self._fd)
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._begin()
            return
        at = len(_MAGIC)
        while at < size:
            record, length = self._read(at, size)
            if record is None:
                log.warning("journal: %d bytes at the end are torn; cut off", size - at)
                os.ftruncate(self._fd, at)
                break
            self._remember(record, at, length)
            at += length
            self._end, self._dirty = at, True
            yield record
        self._end = at

    def write(self, *records: Record) -> None:
        """Hand `records` to the kernel, all or none."""
        if not records:
            return
        chunks, places, at = [], [], self._end
        for record in records:
            body = _encode(record)
            chunks.append(_frame(body))
            places.append((record, at, _HEAD.size + len(body)))
            at += _HEAD.size + len(body)
        self._put(b"".join(chunks))
        for record, where, length in places:
            self._remember(record, where, length)

    def sync(self) -> None:
        """Put on disk what was written; compact when most of the file is history."""
        started = time.monotonic()
        try:
            if self.wasteful:
                self._compact()
            else:
                os.fdatasync(self._fd)
            if self._unnamed:
                _sync_names(self.path)
                self._unnamed = False
        except OSError as error:
            raise _full(self.path, error) from None
        self._dirty = False
        self.last_sync_s = time.monotonic() - started

    def close(self) -> None:
        """Close without syncing. An empty journal stays: it is small."""
        os.close(self._fd)
        os.close(self._lock)

    # ---- inside ----

    def _begin(self) -> None:
        self._end = 0
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise _full(self.path, error) from None
        self._put(_MAGIC)

    def _put(self, data: bytes) -> None:
        view, at = memoryview(data), self._end
        try:
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
        except OSError as error:
            try:
                os.ftruncate(self._fd, self._end)
            except OSError:
                pass  # the torn end is recognised by its checksum
            raise _full(self.path, error) from None
        self._end, self._dirty = at, True

    def _read(self, at: int, size: int) -> tuple[Record | None, int]:
        head = os.pread(self._fd, _HEAD.size, at)
        if len(head) < _HEAD.size:
            return None, 0
        length, checksum = _HEAD.unpack(head)
        if length == 0 or at + _HEAD.size + length > size:
            return None, 0
        body = os.pread(self._fd, length, at + _HEAD.size)
        if len(body) < length or zlib.crc32(body) != checksum:
            return None, 0
        try:
            return _decode(body), _HEAD.size + length
        except INVALID:
            return None, 0

    def _remember(self, record: Record, at: int, length: int) -> None:
        if isinstance(record, Forgotten):
            self._past.extend(record.task_ids)
            for task_id in record.task_ids:
                self._places.pop(task_id, None)
        elif isinstance(record, Finished):
            self._places[record.task_id] = [(at, length)]  # all that is needed from now on
        elif isinstance(record, Taken):
            self.taken.restore(record.senders)
        else:
            if isinstance(record, Accepted) and record.sender:
                self.taken.add(record.sender, record.number)
            self._places.setdefault(record.task_id, []).append((at, length))

    def _live_bytes(self) -> int:
        return sum(length for places in self._places.values() for _, length in places)

    def _compact(self) -> None:
        """Copy what is live into a new file, which then takes the old one's name."""
        path = self.path + ".new"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            moved: dict[str, list[tuple[int, int]]] = {}
            head = (
                _MAGIC + _frame(_encode(Forgotten(list(self._past)))) + _frame(_encode(Taken(self.taken.kept())))
            )
            _write_all(fd, head)
            at = len(head)
            for task_id, places in self._places.items():
                moved[task_id] = []
                for where, length in places:
                    _write_all(fd, os.pread(self._fd, length, where))
                    moved[task_id].append((at, length))
                    at += length
            os.fsync(fd)
            os.replace(path, self.path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._end, self._places, self._unnamed = fd, at, moved, True


def _frame(body: bytes) -> bytes:
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_names(path: str) -> None:
    """Put on disk the name of a file that may be new, and those of the folders that may have been made for it."""
    for _ in range(_FOLDERS):
        path = os.path.dirname(path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def _take_lock(path: str, wait_s: float) -> int:
    """Hold the one lock: a second user endpoint of the same id must not write here too.

    One that is just leaving gets `wait_s` seconds to do so. Asking again is all that POSIX locks offer here: the
    blocking call has no time limit, and an alarm would need the signal that tasks may use.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    try:
        while not _try_lock(fd) and time.monotonic() < deadline:
            time.sleep(_LOCK_AGAIN_S)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in _LOCKED:
            raise HostError(
                Code.ALREADY_RUNNING,
                "Another process of this user endpoint is still at work.",
                admin_text=f"{path} is locked by another process.",
            ) from None
        raise _full(path, error) from None
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            return False
        raise
    return True


def _full(path: str, error: OSError) -> HostError:
    why = "is full" if error.errno in _FULL else f"cannot be written ({error.strerror})"
    return HostError(Code.JOURNAL_FULL, f"The task journal {path} {why}.")
