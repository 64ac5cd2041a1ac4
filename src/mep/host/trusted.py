"""Reading files that steer root: only what nobody else can have written.

The checks are made on open descriptors, from / downwards, each name opened without following a link: what was
checked is what is read. A symbolic link is followed by hand, as long as root (or the owner) made it and the
directory it sits in is safe.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mep.base.codes import Code
from mep.base.errors import HostError, InputError

MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_LINKS = 20
_FIRST_LINE_BYTES = 4096
_MOST_INTERPRETERS = 5  # Linux follows no more


@dataclass(frozen=True)
class _Rules:
    owners: frozenset[int]  # who may own each step
    private: bool  # the file itself: no access for anybody else


def read_trusted(path: Path, *, owner_uid: int = 0, private: bool = False, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of `path`.

    HostError(CONFIG_UNTRUSTED) names the file or parent that others than root and `owner_uid` may change, and
    why; HostError(CONFIG_UNREADABLE) if it cannot be read, InputError(CONFIG_INVALID) if it is too large or no
    UTF-8. `private`: nobody else may read it either. Privilege: what reading it takes.
    """
    with open_trusted(path, owner_uid=owner_uid, private=private) as fd:
        data = _read_all(fd, max_bytes)
    return _text(data, path, max_bytes)


def read_own(path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of a file that steers nobody but the caller: no checks of who may change it.

    HostError(CONFIG_UNREADABLE) and InputError(CONFIG_INVALID) as `read_trusted`. Privilege: none.
    """
    try:
        with path.open("rb", buffering=0) as file:
            data = _read_all(file.fileno(), max_bytes)  # in pieces: reading so much at once reserves so much
    except OSError as error:
        raise HostError(Code.CONFIG_UNREADABLE, f"Cannot read {path}: {error.strerror}.", step="") from None
    return _text(data, path, max_bytes)


@contextmanager
def open_trusted(path: Path, *, owner_uid: int = 0, private: bool = False) -> Iterator[int]:
    """Give an fd of the regular file `path`, checked as in `read_trusted`. Privilege: what reading it takes."""
    fd = _walk(path, _Rules(frozenset({0, owner_uid}), private))
    try:
        yield fd
    finally:
        os.close(fd)


def check_command(argv: Sequence[str]) -> None:
    """Raise as `read_trusted` if others than root can change what running `argv` would run.

    Also the files and folders among its arguments, `--option=/path` too: `/usr/bin/python3 /opt/map` runs what is
    there. And the interpreter in the first line of each of these files. What a shell makes of a text (`sh -c`) and
    what a program reads by itself is not seen. Privilege: read access.
    """
    _check_program(argv, _MOST_INTERPRETERS)


def _check_program(argv: Sequence[str], interpreters_left: int) -> None:
    words = [word for argument in argv[1:] for word in (argument, argument.partition("=")[2])]
    places = [word for word in words if word.startswith("/")]
    for word in [argv[0], *(place for place in places if os.path.isfile(place) or os.path.isdir(place))]:
        if os.path.isdir(word):
            check_directory(Path(word), shared=False)
            continue
        with open_trusted(Path(word)) as fd:
            first, _, _ = os.pread(fd, _FIRST_LINE_BYTES, 0).partition(b"\n")
        if first.startswith(b"#!") and (interpreter := os.fsdecode(first[2:]).split()):
            if not interpreters_left:
                raise _untrusted(Path(word), "is run by too many interpreters, one after the other")
            interpreter[0] = os.path.join("/", interpreter[0])  # where it runs
            _check_program(interpreter, interpreters_left - 1)


def check_directory(path: Path, *, owner_uid: int = 0, shared: bool = True) -> None:
    """Raise as `read_trusted` unless `path` is a directory that only root and `owner_uid` can change.

    `shared` False: nor may others add files to it, as they may to /tmp. Privilege: search permission down to it.
    """
    fd = _walk(path, _Rules(frozenset({0, owner_uid}), private=False), directory=True)
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    if mode & 0o022 and not shared:
        raise _untrusted(path, f"lets others add files (mode {mode:04o})")


def _text(data: bytes, path: Path, most: int) -> str:
    if len(data) > most:
        raise InputError(Code.CONFIG_INVALID, f"{path} is larger than {most} bytes.", step="")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(Code.CONFIG_INVALID, f"{path} is not UTF-8 text (byte {error.start}).", step="") from None


def _read_all(fd: int, most: int) -> bytes:
    chunks, size = [], 0
    while size <= most:
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _walk(path: Path, rules: _Rules, *, directory: bool = False) -> int:
    """Open `path` name by name, checking each; return the last one's fd."""
    links = 0
    todo = list(PurePosixPath(os.path.abspath(path)).parts[1:])
    done = PurePosixPath("/")
    at = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    above: list[int] = []
    try:
        _check(os.fstat(at), done, rules)
        while todo:
            name = todo.pop(0)
            if name == "..":
                if above:
                    os.close(at)
                    at = above.pop()
                    done = done.parent
                continue
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                _check(found, done / name, rules)
                if links > _MAX_LINKS:
                    raise _untrusted(path, "has too many symbolic links")
                target = PurePosixPath(os.readlink(name, dir_fd=at))
                if target.is_absolute():
                    for fd in above:
                        os.close(fd)
                    above.clear()
                    os.close(at)
                    at = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    done = PurePosixPath("/")
                    todo = [*target.parts[1:], *todo]
                else:
                    todo = [*target.parts, *todo]
                continue
            last = not todo
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(name, flags if last else flags | os.O_DIRECTORY, dir_fd=at)
            above.append(at)
            at, done = fd, done / name
            _check(os.fstat(at), done, rules, is_file=last and not directory)
        return at
    except OSError as error:
        os.close(at)
        raise HostError(
            Code.CONFIG_UNREADABLE, f"Cannot read {path}: {error.strerror} ({done}).", step=""
        ) from None
    except BaseException:
        os.close(at)
        raise
    finally:
        for fd in above:
            os.close(fd)


def _check(found: os.stat_result, path: PurePosixPath, rules: _Rules, *, is_file: bool = False) -> None:
    if is_file and not stat.S_ISREG(found.st_mode):
        raise _untrusted(path, "is not a regular file")
    if found.st_uid not in rules.owners:
        allowed = " or ".join(str(uid) for uid in sorted(rules.owners))
        raise _untrusted(path, f"belongs to uid {found.st_uid}; wanted uid {allowed}")
    if stat.S_ISLNK(found.st_mode):
        return  # a link has no mode of its own
    # In a sticky directory (/tmp) others may add names but not replace ours.
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & 0o022 and not sticky:
        raise _untrusted(
            path, f"can be written by its group or by others (mode {stat.S_IMODE(found.st_mode):04o})"
        )
    if is_file and rules.private and found.st_mode & 0o077:
        raise _untrusted(path, f"can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); wanted 0600")


def _untrusted(path: PurePosixPath | Path, why: str) -> HostError:
    return HostError(
        Code.CONFIG_UNTRUSTED,
        "A file of this endpoint is not safe to use.",
        admin_text=f"{path} {why}. What steers the daemon, and every directory above it, must belong to "
        "root (or the endpoint's owner) and be writable by nobody else.",
        step="",
    )
