"""Runs one packed call to its packed result: in a thread, in a forked worker, or on a compute node.

On a compute node this module is imported by a fresh interpreter, perhaps thousands of times at once: it imports
little.
"""

from __future__ import annotations

import functools
import os
import platform
import resource
import sys
import time
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import dill

import mep
from mep.base.codes import Code
from mep.base.errors import MepError
from mep.base.sizes import size_text
from mep.engines.timelimit import TaskTimeout, time_limit
from mep.serialize.facade import Serializer, serialize_result
from mep.wire import envelope
from mep.wire.limits import MAX_RESULT_CHARS

REMOTE_ERROR = "RemoteExecutionError"
RESULT_TOO_LARGE = "MaxResultSizeExceeded"
MALFORMED = "CouldNotExecuteUserTaskError"

_OWN_FILES = (__file__, time_limit.__code__.co_filename)


@dataclass(frozen=True)
class Bench:
    """Where and how a worker of one engine works. Plain values: it travels to compute nodes.

    `working_dir` is absolute; with `sandbox` each task has a directory of its own below it. `owns_process`: the
    worker is a process of its own, whose current directory follows the task.
    """

    uep_id: str
    working_dir: str = ""
    sandbox: bool = False
    owns_process: bool = True
    allowed_serializers: tuple[str, ...] = ()
    max_result_chars: int = MAX_RESULT_CHARS


class _ResultTooLarge(Exception):
    pass


@functools.cache
def environment_details() -> dict[str, Any]:
    """Return the versions that a client compares with its own when a task fails."""
    return {
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "dill_version": dill.__version__,
        "globus_compute_sdk_version": f"mep-{mep.__version__}",
        "mep_version": mep.__version__,
    }


@functools.lru_cache(maxsize=8)
def _serializer(allowed: tuple[str, ...]) -> Serializer:
    return Serializer(allowed=allowed)


def execute(buffer: str, task_id: str, serializers: tuple[str, ...], bench: Bench) -> tuple[str, bytes]:
    """Return (error code or "", the result's envelope) of the packed call in `buffer`. Raises nothing."""
    started_ns = time.time_ns()
    code, message, error_message = "", "", ""
    try:
        _settle_in(task_id, bench)
        message = _call(buffer, serializers, bench)
    except BaseException as error:  # noqa: BLE001 - whatever a user's function raises is its result
        code, error_message, message = _describe(error)
        message = _cut(message, bench.max_result_chars)
    statuses = [
        envelope.Transition(timestamp=started_ns, state="execution-start", actor="worker"),
        envelope.Transition(timestamp=time.time_ns(), state="execution-end", actor="worker"),
    ]
    details = {**environment_details(), "endpoint_id": bench.uep_id}
    error_details = envelope.ErrorDetails(code=code, user_message=error_message) if code else None
    result = envelope.Result(
        task_id=task_id, data=message, error_details=error_details, details=details, task_statuses=statuses
    )
    try:
        return code, envelope.encode(result)
    except ValueError:  # lone surrogates in a text that the user's function made
        clean = message.encode("utf-8", "backslashreplace").decode()
        return code, envelope.encode(_replace_data(result, clean))


def _replace_data(result: envelope.Result, data: str) -> envelope.Result:
    return envelope.Result(
        task_id=result.task_id,
        data=data,
        error_details=result.error_details,
        details=result.details,
        task_statuses=result.task_statuses,
    )


def _settle_in(task_id: str, bench: Bench) -> None:
    """Set what a task may look at: its id, its directory. In a thread pool these are shared, as in stock."""
    os.environ["GC_TASK_UUID"] = task_id
    if bench.sandbox and bench.working_dir:
        directory = os.path.join(bench.working_dir, task_id)
        os.environ["GC_TASK_SANDBOX_DIR"] = directory
    else:
        directory = bench.working_dir
        os.environ.pop("GC_TASK_SANDBOX_DIR", None)
    if directory and (bench.owns_process or bench.sandbox):
        try:
            os.chdir(directory)
        except FileNotFoundError:
            os.makedirs(directory, exist_ok=True)
            os.chdir(directory)


def _call(buffer: str, serializers: tuple[str, ...], bench: Bench) -> str:
    function, args, kwargs = _serializer(bench.allowed_serializers).load_call(buffer)
    del buffer
    with time_limit(_timeout_s()):
        value = function(*args, **kwargs)
    result = serialize_result(value, serializers)
    if len(result) > bench.max_result_chars:
        raise _ResultTooLarge(
            f"The serialized result has {len(result)} characters; at most {bench.max_result_chars} are allowed. "
            "Return less, or write the data to a file and return its path."
        )
    return result


def _timeout_s() -> float:
    try:
        return max(0.0, float(os.environ.get("GC_TASK_TIMEOUT", "") or 0.0))
    except ValueError:
        return 0.0


def _describe(error: BaseException) -> tuple[str, str, str]:
    """Return (code, one line for the user, full text)."""
    if isinstance(error, _ResultTooLarge):
        return RESULT_TOO_LARGE, f"remote error: {error}", f"{Code.RESULT_TOO_LARGE.value}: {error}"
    message = "An error occurred during the execution of this task"
    if isinstance(error, MepError):
        return REMOTE_ERROR, message, _text(error, keep_frames=False)
    if isinstance(error, MemoryError):
        why = "out of memory" + _most_memory()
        return REMOTE_ERROR, f"{message}: {why}", f"{_text(error, keep_frames=True)}[{why}]\n"
    if isinstance(error, TaskTimeout):
        message += f": {error}"
    return REMOTE_ERROR, message, _text(error, keep_frames=True)


def _most_memory() -> str:
    """Return what a process may have, where that is limited: Python says nothing of it."""
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "" if limit_bytes == resource.RLIM_INFINITY else f": the limit of a process is {size_text(limit_bytes)}"


def _text(error: BaseException, *, keep_frames: bool) -> str:
    """Return the traceback as the user knows it: without our own frames."""
    try:
        own_end = _skip_own_frames(error.__traceback__) if keep_frames else None
        return "".join(traceback.format_exception(type(error), error, own_end))
    except BaseException:  # noqa: BLE001 - a user's exception class may do anything, even here
        return f"{type(error).__name__} (its text could not be made)\n"


def _cut(text: str, most: int) -> str:
    """An exception may hold the data it complains about: keep both ends of its text."""
    return text if len(text) <= most else f"{text[: most // 4]}\n[...]\n{text[-most // 2 :]}"


def _skip_own_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename in _OWN_FILES:
        trace = trace.tb_next
    return trace


def flush_output() -> None:
    """Write out what the user's function printed: a worker may be killed before its buffers are."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the user's function closed or replaced it
