"""The exceptions of the SDK, under their stock names; all are MepErrors: code, text, next step.

MepError
|- ComputeAPIError        the relay answered with an error status, or could not be asked at all
|- TaskPending            no result yet
|- TaskExecutionFailed    the task ended with an error; holds the remote traceback
|- MaxResultSizeExceeded  the result is larger than the service carries
|- VersionMismatch        this SDK is too old for the relay
`- SerializationError, DeserializationError (from mep.serialize)
"""

from __future__ import annotations

import time
from typing import Any

from mep.base.codes import Code, next_step
from mep.base.errors import InputError, MepError, ServiceError, TaskError
from mep.serialize.errors import DeserializationError, SerdeError, SerializationError

__all__ = [
    "ComputeAPIError",
    "ComputeError",
    "DeserializationError",
    "MaxResultSizeExceeded",
    "SerdeError",
    "SerializationError",
    "TaskExecutionFailed",
    "TaskPending",
    "VersionMismatch",
]

ComputeError = MepError  # the stock name of the base class

_BY_STATUS = {
    401: Code.AUTH_REQUIRED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    413: Code.TASK_TOO_LARGE,
    422: Code.INVALID_REQUEST,
    400: Code.INVALID_REQUEST,
    423: Code.LOCKED,
}


class ForeignCode(str):
    """A code that a stock service or endpoint made: a text that looks like a Code where one is expected."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)


def _known(code: str) -> Code | None:
    return Code(code) if code in Code.__members__ else None


def _best(code: str, kind: Code) -> Code | ForeignCode:
    return _known(code) or (ForeignCode(code) if code else kind)


class ComputeAPIError(ServiceError):
    """The relay refused a request (`http_status` >= 400), or did not answer (`http_status` 0).

    `code` is the relay's own word where it gave one (a str; ours are also members of Code), `message` its text.
    """

    code: Any  # Code | ForeignCode

    def __init__(
        self,
        http_status: int,
        code: str,
        message: str,
        *,
        request_id: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        head, colon, rest = message.partition(": ")
        if colon and (_known(head) or head == code):
            # our relay begins its texts with our code, which is finer than the stock code beside it
            code, message = head, rest
        kind = _known(code) or _BY_STATUS.get(http_status, Code.RELAY_REFUSED)
        step = next_step(kind).user
        super().__init__(kind, message, step="" if step and step in message else step)
        if http_status != 401:
            self.code = _best(code, kind)
        self.http_status = http_status
        self.message = message
        self.request_id = request_id
        self.details = details or {}

    def for_user(self) -> str:
        """Return code, text, next step and, where known, the request id."""
        return super().for_user() + (f" (request {self.request_id})" if self.request_id else "")

    def __reduce__(self) -> tuple[object, ...]:
        return (_api_error, (self.http_status, str(self.code), self.message, self.request_id, self.details))


def _api_error(
    http_status: int, code: str, message: str, request_id: str | None, details: dict[str, Any]
) -> ComputeAPIError:
    return ComputeAPIError(http_status, code, message, request_id=request_id, details=details)


class TaskPending(ServiceError):
    """The task has no result yet. `reason` is its state."""

    def __init__(self, reason: str) -> None:
        super().__init__(Code.TASK_PENDING, f"The task has no result yet: {reason}.")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason,))


class VersionMismatch(InputError):
    """This SDK is older than the relay accepts."""

    def __init__(self, version_message: str) -> None:
        super().__init__(Code.VERSION_MISMATCH, version_message)
        self.version_message = version_message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.version_message,))


class MaxResultSizeExceeded(TaskError):
    """The serialized result is larger than the service carries. Sizes in characters."""

    def __init__(self, result_size: int, result_size_limit: int) -> None:
        super().__init__(
            Code.RESULT_TOO_LARGE,
            f"The result has {result_size} characters when serialized; at most {result_size_limit} are carried.",
        )
        self.result_size = result_size
        self.result_size_limit = result_size_limit

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.result_size, self.result_size_limit))


class TaskExecutionFailed(TaskError):
    """The task ended with an error.

    `remote_data`: what happened, usually the remote traceback; `code`: a Code, or the stock code;
    `completion_t`: Unix seconds as text; `task_details`: versions and place of the worker, if it told.
    """

    code: Any  # Code | ForeignCode

    def __init__(
        self,
        remote_data: str,
        completion_t: str | None = None,
        task_details: dict[str, Any] | None = None,
        *,
        code: str = "",
        step: str | None = None,
    ) -> None:
        kind = _known(code) or Code.TASK_FAILED
        super().__init__(kind, remote_data, step=_step_for(kind, remote_data) if step is None else step)
        self.code = _best(code, kind)
        self.remote_data = remote_data
        self.completion_t = completion_t or str(time.time())
        self.task_details = task_details

    def for_user(self) -> str:
        """Return the code, the remote text as it is, and the next step."""
        text = self.remote_data.rstrip().removeprefix(f"{self.code}: ")
        joint = "\n" if "\n" in text else " "
        return f"{self.code}:{joint}{text}" + (f"{joint}{self.step}" if self.step else "")

    def __reduce__(self) -> tuple[object, ...]:
        args = (self.remote_data, self.completion_t, self.task_details)
        return (_task_failure, (*args, str(self.code), self.step))


def _task_failure(
    remote_data: str, completion_t: str, task_details: dict[str, Any] | None, code: str, step: str
) -> TaskExecutionFailed:
    return TaskExecutionFailed(remote_data, completion_t, task_details, code=code, step=step)


def _step_for(kind: Code, text: str) -> str:
    """A traceback of the user's own code needs no advice; a serialization problem in it does."""
    if kind is not Code.TASK_FAILED:
        step = next_step(kind).user
        return "" if step in text else step
    last = text.rstrip().rpartition("\n")[2].lower()
    if "serializ" in last or "pickl" in last or "marshal" in last:
        return next_step(Code.DESERIALIZATION_FAILED).user
    return ""
