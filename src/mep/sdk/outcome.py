"""From what came back to what a future holds: a value, or an exception that says what happened."""

from __future__ import annotations

import platform
import sys
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import dill

from mep.sdk.errors import DeserializationError, TaskExecutionFailed
from mep.serialize import Serializer
from mep.wire.envelope import Result

_FINAL = ("success", "failed")
_warned: set[str] = set()  # endpoints whose versions the user has heard about


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `error` if it failed, else `value`."""

    value: Any = None
    error: Exception | None = None
    completion_t: str = ""


def of_message(result: Result, serializer: Serializer, completion_t: str) -> Outcome:
    """Return the outcome that a result message tells."""
    if result.error_details is not None:
        return _failed(result.data, completion_t, result.details, result.error_details.code)
    return _succeeded(result.data, completion_t, result.details, serializer)


def of_document(document: dict[str, Any], serializer: Serializer) -> Outcome | None:
    """Return the outcome that a task document tells (protocol: reading results); None while it is pending."""
    if str(document.get("status", "")).lower() not in _FINAL:
        return None
    completion_t = str(document.get("completion_t") or "")
    details = document.get("details")
    if isinstance(document.get("result"), str):
        return _succeeded(document["result"], completion_t, details, serializer)
    text = document.get("exception") or document.get("reason") or "The relay gives no reason."
    error = document.get("error_details")
    code = document.get("code") or (error.get("code") if isinstance(error, dict) else "")
    return _failed(str(text), completion_t, details, str(code or ""))


def _succeeded(data: str, completion_t: str, details: Any, serializer: Serializer) -> Outcome:
    try:
        return Outcome(serializer.deserialize(data), None, completion_t)
    except BaseException as error:
        # unpickling runs code of any kind, and SystemExit would end the thread that all other futures wait for
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        reason = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
        difference = _version_difference(details)
        _warn(details, difference)
        told = DeserializationError(reason + (f". {difference}" if difference else ""))
        told.__cause__ = error
        return Outcome(None, told, completion_t)


def _failed(text: str, completion_t: str, details: Any, code: str) -> Outcome:
    details = details if isinstance(details, dict) else None
    _warn(details, _version_difference(details))
    return Outcome(None, TaskExecutionFailed(text, completion_t or None, details, code=code), completion_t)


def _version_difference(details: Any) -> str:
    """Return what differs between worker and us in a way that pickles do not survive, or ""."""
    if not isinstance(details, dict):
        return ""
    differences = []
    theirs = str(details.get("python_version", ""))
    if theirs and theirs.split(".")[:2] != [str(n) for n in sys.version_info[:2]]:
        differences.append(f"Python {theirs} at the worker, {platform.python_version()} here")
    theirs = str(details.get("dill_version", ""))
    if theirs and theirs != dill.__version__:
        differences.append(f"dill {theirs} at the worker, {dill.__version__} here")
    return "The versions differ: " + "; ".join(differences) + "." if differences else ""


def _warn(details: Any, difference: str) -> None:
    """Warn once per endpoint: the difference may be why a task failed, and the error rarely says so."""
    endpoint = str(details.get("endpoint_id", "")) if isinstance(details, dict) else ""
    if difference and endpoint not in _warned:
        _warned.add(endpoint)
        try:
            warnings.warn(f"{difference} That may be why a task failed.", UserWarning, stacklevel=2)
        except UserWarning:
            pass  # warnings are errors here; this one would be the result stream's
