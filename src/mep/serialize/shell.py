"""Shell commands as functions: what is submitted, what runs at the far end (this file runs programs), the result.

Instances travel under the stock class names, so attribute names here are part of the wire format.
"""

from __future__ import annotations

import keyword
import os
import signal
import subprocess
import tempfile
from collections import deque
from typing import IO, Any

_TIMED_OUT = 124  # as timeout(1)
_SHOWN_LINES = 10
_SHOWN_CHARS = 1024


class ShellResult:
    """How a command ended. `stdout` and `stderr` hold the last lines; `exception_name` is set if it failed."""

    def __init__(
        self, cmd: str, stdout: str, stderr: str, returncode: int, exception_name: str | None = None
    ) -> None:
        self.cmd = cmd
        self.stdout = stdout
        self.stderr = stderr
        self.returncode = returncode
        self.exception_name = exception_name

    def __str__(self) -> str:
        text = f"exit status {self.returncode}\nstdout:\n{_tail(self.stdout)}"
        if self.returncode != 0:
            text += f"\nstderr:\n{_tail(self.stderr)}"
            if self.exception_name:
                text += f"\nexception: {self.exception_name}"
        return text

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShellResult) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment] # mutable, compared by content


class ShellFunction:
    """A command line as a function: `executor.submit(ShellFunction("wc -l {path}"), path="/etc/motd")`.

    cmd: for bash; `{name}` is replaced by the keyword argument of the call.
    stdout, stderr: files at the far end that the output is appended to (default: temporary ones).
    walltime: seconds, then the command is killed and `returncode` is 124.
    snippet_lines: how many last lines of each stream come back.
    name: what it is registered as; a Python name. return_dict: come back as dict, not as ShellResult.
    """

    # for instances that an older SDK pickled, whose class had fewer attributes
    stdout: str | None = None
    stderr: str | None = None
    walltime: float | None = None
    snippet_lines = 1000
    return_dict = False

    def __init__(
        self,
        cmd: str,
        stdout: str | None = None,
        stderr: str | None = None,
        walltime: float | None = None,
        snippet_lines: int = 1000,
        name: str | None = None,
        return_dict: bool = False,  # noqa: FBT001, FBT002 - stock signature
    ) -> None:
        if walltime is not None and walltime < 0:
            raise ValueError(f"walltime is {walltime}; wanted 0 or more seconds")
        name = type(self).__name__ if name is None else name
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"name is {name!r}; wanted a Python name")
        self.cmd = cmd
        self.stdout = stdout
        self.stderr = stderr
        self.walltime = walltime
        self.snippet_lines = snippet_lines
        self.__name__ = name
        self.return_dict = return_dict

    def __repr__(self) -> str:
        fields = ", ".join(f"{key.strip('_')}={value!r}" for key, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({fields})"

    def __call__(self, **kwargs: Any) -> ShellResult | dict[str, Any]:
        """Run the command here and now, with the keyword arguments formatted into it."""
        return self.execute_cmd_line(self.cmd.format(**kwargs))

    def execute_cmd_line(self, cmd: str) -> ShellResult | dict[str, Any]:
        """Run `cmd` by bash in the task's sandbox directory if there is one, else in the current one."""
        folder = os.environ.get("GC_TASK_SANDBOX_DIR") or os.getcwd()
        os.makedirs(folder, exist_ok=True)
        with _open(folder, self.stdout) as out, _open(folder, self.stderr) as err:
            starts = out.tell(), err.tell()
            returncode, exception_name = _run(cmd, folder, out, err, self.walltime)
            result: dict[str, Any] = {
                "cmd": cmd,
                "stdout": _last_lines(out, starts[0], self.snippet_lines),
                "stderr": _last_lines(err, starts[1], self.snippet_lines),
                "returncode": returncode,
                "exception_name": exception_name,
            }
        return result if self.return_dict else ShellResult(**result)


class MPIFunction(ShellFunction):
    """A ShellFunction whose command is started by the MPI launcher of an MPI-capable engine."""

    def __call__(self, **kwargs: Any) -> ShellResult | dict[str, Any]:
        return self.execute_cmd_line("$PARSL_MPI_PREFIX " + self.cmd.format(**kwargs))


class BashFunction(ShellFunction):
    """The name that a ShellFunction had in early releases of the stock SDK."""


def _open(folder: str, path: str | None) -> IO[bytes]:
    """Open the stream's file for appending; an anonymous temporary one if the user named none."""
    if path is None:
        return tempfile.TemporaryFile()
    path = os.path.join(folder, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    stream = open(path, "a+b")  # noqa: SIM115 - closed by the caller's with
    stream.seek(0, os.SEEK_END)
    return stream


def _run(cmd: str, folder: str, out: IO[bytes], err: IO[bytes], walltime: float | None) -> tuple[int, str | None]:
    """Return exit status and the name of what went wrong, as the stock function reports them."""
    process = subprocess.Popen(  # noqa: S603 - running the user's command, as the user, is the purpose
        ["/bin/bash", "-c", cmd], cwd=folder, stdout=out, stderr=err, process_group=0
    )
    try:
        returncode = process.wait(walltime or None)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the whole group: bash alone would leave its children
        process.wait()
        return _TIMED_OUT, "subprocess.TimeoutExpired"
    return returncode, "subprocess.CalledProcessError" if returncode else None


def _last_lines(stream: IO[bytes], start: int, lines: int) -> str:
    stream.seek(start)
    return b"".join(deque(stream, maxlen=max(lines, 0))).decode(errors="replace")


def _tail(text: str) -> str:
    text = text.strip("\n")
    shown = "\n".join(text[-_SHOWN_CHARS:].splitlines()[-_SHOWN_LINES:])
    return shown if shown == text.rstrip() else f"[earlier output left out]\n{shown}"
