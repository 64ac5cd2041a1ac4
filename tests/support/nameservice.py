"""A name service that hangs over some questions: nscd's socket, which the C library asks before anything else.

Only in the sandbox, whose /run is its own. A program, and not a thread of the test: the C library asks from here,
too, and may hold the interpreter's lock while it waits.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SOCKET = Path("/run/nscd/socket")
_VERSION = 2
USER, USER_BY_ID, GROUPS_OF = 0, 1, 15  # GETPWBYNAME, GETPWBYUID, INITGROUPS of glibc's nscd/nscd-client.h
_GROUP_BY_NAME, _GROUP_BY_ID = 2, 3
_NOT_FOUND = 0


@contextmanager
def silent_about(*questions: tuple[int, str]) -> Iterator[None]:
    """Run it; `questions`, each a kind and a name (or number), are never answered. Ends with the context."""
    assert os.environ.get("MEP_SANDBOX") == "1"
    _SOCKET.parent.mkdir()
    words = [f"{kind}:{name}" for kind, name in questions]
    service = subprocess.Popen(
        [sys.executable, "-I", __file__, *words], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == "listening\n"
        yield
    finally:
        service.kill()
        service.communicate()
        _SOCKET.unlink(missing_ok=True)
        _SOCKET.parent.rmdir()


def main(words: list[str]) -> None:
    """Answer about accounts and groups from /etc; close where somebody asks for anything else."""
    silent = {(int(kind), name) for kind, _, name in (word.partition(":") for word in words)}
    accounts, groups = (
        [line.split(":") for line in Path(path).read_text().splitlines()] for path in ("/etc/passwd", "/etc/group")
    )
    kept = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(_SOCKET))
        _SOCKET.chmod(0o666)
        listening.listen(64)
        print("listening", flush=True)
        while True:
            asker, _ = listening.accept()
            kind, name = _question(asker)
            if (kind, name) in silent:
                kept.append(asker)
                continue
            with asker:
                asker.sendall(_answer(kind, name, accounts, groups))


def _question(asker: socket.socket) -> tuple[int, str]:
    try:
        _version, kind, length = struct.unpack("=iii", asker.recv(12, socket.MSG_WAITALL))
        return kind, asker.recv(length, socket.MSG_WAITALL).rstrip(b"\0").decode()
    except (OSError, struct.error):
        return -1, ""


def _answer(kind: int, name: str, accounts: list[list[str]], groups: list[list[str]]) -> bytes:
    if kind in (USER, USER_BY_ID):
        found = [one for one in accounts if one[0 if kind == USER else 2] == name]
        return _account(found[0]) if found else struct.pack("=iiiiIIiii", _VERSION, _NOT_FOUND, *[0] * 7)
    if kind == GROUPS_OF:
        own = [int(one[3]) for one in accounts if one[0] == name]
        gids = own + [int(one[2]) for one in groups if name in one[3].split(",")]
        return struct.pack(f"=iii{len(gids)}i", _VERSION, 1, len(gids), *gids)
    if kind in (_GROUP_BY_NAME, _GROUP_BY_ID):
        found = [one for one in groups if one[0 if kind == _GROUP_BY_NAME else 2] == name]
        return _group(found[0]) if found else struct.pack("=iiiiIi", _VERSION, _NOT_FOUND, *[0] * 4)
    return b""


def _account(fields: list[str]) -> bytes:
    name, word, uid, gid, gecos, home, shell = fields
    texts = [one.encode() + b"\0" for one in (name, word, gecos, home, shell)]
    sizes = [len(one) for one in texts]
    head = struct.pack("=iiiiIIiii", _VERSION, 1, *sizes[:2], int(uid), int(gid), *sizes[2:])
    return head + b"".join(texts)


def _group(fields: list[str]) -> bytes:
    name, word = (one.encode() + b"\0" for one in fields[:2])
    members = [one.encode() + b"\0" for one in fields[3].split(",") if one]
    head = struct.pack("=iiiiIi", _VERSION, 1, len(name), len(word), int(fields[2]), len(members))
    return head + struct.pack(f"={len(members)}I", *map(len, members)) + name + word + b"".join(members)


if __name__ == "__main__":
    main(sys.argv[1:])
