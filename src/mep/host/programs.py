"""Running an administrator's mapping program, within limits of time and size. This room runs programs."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence

from mep.base.codes import Code
from mep.base.errors import HostError

MAX_OUTPUT_BYTES = 256 * 1024
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def run_program(
    argv: Sequence[str], stdin: bytes, *, timeout_s: float, max_output_bytes: int = MAX_OUTPUT_BYTES
) -> bytes:
    """Run `argv` with `stdin`, a clean environment and no terminal; return what it wrote.

    HostError: MAPPING_TIMEOUT after `timeout_s`, MAPPING_FAILED if it cannot be run, exits with another status
    than 0 or writes too much. It and its process group are killed then. Privilege: the caller's, which the
    program gets as well.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the administrator's own command, no shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise _failed(f"{argv[0]} cannot be run: {error.strerror}") from None
    try:
        output = _converse(process, stdin, until=time.monotonic() + timeout_s, most=max_output_bytes)
    except BaseException:
        _kill_group(process)
        raise
    if process.returncode != 0:
        raise _failed(f"{argv[0]} ended with status {process.returncode}")
    return output


def _converse(process: subprocess.Popen[bytes], stdin: bytes, *, until: float, most: int) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    output = bytearray()
    with process.stdin, process.stdout, selectors.DefaultSelector() as selector:
        for stream in (process.stdin, process.stdout):
            os.set_blocking(stream.fileno(), False)
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise _late(process)
            for key, _ in selector.select(left_s):
                if key.fileobj is process.stdin:
                    stdin = _feed(process, stdin, selector)
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                output += chunk
                if not chunk:
                    selector.unregister(process.stdout)
                if len(output) > most:
                    raise _failed(f"{process.args!r} wrote more than {most} bytes")
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _late(process) from None
    return bytes(output)


def _feed(process: subprocess.Popen[bytes], rest: bytes, selector: selectors.BaseSelector) -> bytes:
    """Write some; close stdin when all is written, or when the program does not want to know."""
    assert process.stdin is not None
    try:
        rest = rest[os.write(process.stdin.fileno(), rest) :] if rest else b""
    except BrokenPipeError:
        rest = b""
    if not rest:
        selector.unregister(process.stdin)
        process.stdin.close()
    return rest


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _late(process: subprocess.Popen[bytes]) -> HostError:
    return HostError(
        Code.MAPPING_TIMEOUT,
        "The endpoint took too long to find your local account.",
        admin_text=f"The mapping program {process.args!r} did not answer in time.",
    )


def _failed(why: str) -> HostError:
    return HostError(
        Code.MAPPING_FAILED,
        "The endpoint could not find your local account.",
        admin_text=f"Mapping failed: {why}.",
    )
