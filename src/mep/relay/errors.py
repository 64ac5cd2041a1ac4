"""What the routes answer when they refuse: an HTTP status, a code that stock clients know, a text.

Rooms raise `mep.base` errors; `from_mep_error` gives them a status. The body is `wire.rest.ErrorBody`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mep.base.codes import Code, next_step
from mep.base.errors import HostError, InputError, MepError, RefusedError, ServiceError, TaskError
from mep.wire.rest import ErrorBody

_LOGIN: Final = "Log in again with `mep login`, or set MEP_TOKEN to a current token."


#: What to do about a refusal whose text says only what happened.
_STEPS: Final = {
    "REQUEST_MALFORMED": "See /docs for the form.",
    "SEMANTICALLY_INVALID": "See /docs for what is wanted.",
    "INVALID_UUID": "Check the id.",
    "NOT_FOUND": "See /docs for what there is.",
    "METHOD_NOT_ALLOWED": "See /docs for what is.",
    "TASK_NOT_FOUND": "Check the id, and that you submitted it.",
    "TASK_GROUP_NOT_FOUND": "Check the id.",
    "TASK_GROUP_ACCESS_FORBIDDEN": "Leave task_group_id out, or make an id of your own.",
    "FUNCTION_ACCESS_FORBIDDEN": "Ask its owner, or register a function of your own.",
    "ENDPOINT_LOCKED": "Try again then.",
    "INSUFFICIENT_AUTH_SCOPE": "Log in again with `mep login`.",
}


class HttpError(Exception):
    """Ends a request with `status`; `code` and `detail` are for the caller.

    `step`: what to do, where it is not the usual.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        step: str | None = None,
        headers: Mapping[str, str] | None = None,
        args: Any = (),
    ) -> None:
        step = _STEPS.get(code, "") if step is None else step
        detail = f"{detail} {step}".rstrip()
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers = dict(headers or {})
        self.error_args = list(args)

    def body(self) -> bytes:
        return msgspec.json.encode(
            ErrorBody(
                code=self.code,
                detail=self.detail,
                reason=self.detail,
                http_status_code=self.status,
                error_args=self.error_args,
            )
        )


def unauthenticated(why: str, code: str = "USER_UNAUTHENTICATED") -> HttpError:
    """401, with what to do about it."""
    return HttpError(401, code, f"{why} {_LOGIN}", headers={"WWW-Authenticate": "Bearer"})


def malformed(why: str) -> HttpError:
    return HttpError(400, "REQUEST_MALFORMED", why)


def endpoint_not_found(endpoint_id: str) -> HttpError:
    return HttpError(
        404,
        "ENDPOINT_NOT_FOUND",
        f"Endpoint {endpoint_id} could not be resolved. Check the id, and that the endpoint was started once.",
    )


def endpoint_forbidden(endpoint_id: str) -> HttpError:
    return HttpError(
        403,
        "ENDPOINT_ACCESS_FORBIDDEN",
        f"You may not use or change endpoint {endpoint_id}.",
        step=next_step(Code.FORBIDDEN).user,
    )


def function_not_found(function_id: str) -> HttpError:
    return HttpError(
        404, "FUNCTION_NOT_FOUND", f"Function {function_id} could not be resolved. Register it again."
    )


def task_not_found(task_id: str) -> HttpError:
    return HttpError(404, "TASK_NOT_FOUND", f"Task {task_id} could not be resolved.")


def unavailable(detail: str, *, retry_after_s: int = 2) -> HttpError:
    return HttpError(503, Code.BROKER_UNREACHABLE.value, detail, headers={"Retry-After": str(retry_after_s)})


_STATUS: Final[dict[type[MepError], int]] = {
    InputError: 422,
    RefusedError: 403,
    ServiceError: 503,
    HostError: 500,
    TaskError: 500,
}


def from_mep_error(error: MepError) -> HttpError:
    """Return the answer for an expected failure of another room."""
    status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
    code = "SEMANTICALLY_INVALID" if status == 422 else error.code.value
    return HttpError(status, code, error.for_user(), step="")
