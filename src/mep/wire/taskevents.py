"""What a user endpoint tells the monitor for the audit log: how far its tasks are, many at a time.

The user's own process says it, so it is believed about its own tasks only; who and where the monitor knows itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

#: An id or a code: one short word that can stand in any log line.
Word = Annotated[str, Meta(max_length=64, pattern=r"\A[!-~]*\Z")]
#: Unix seconds that are a time: neither endless nor no number, which JSON cannot say.
Time = Annotated[float, Meta(ge=0, le=1e11)]

#: The most that fits a message, whatever the events hold.
MAX_EVENTS = 250


class TaskEvent(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One step of one task. `at`: Unix seconds. `code`: of a task that ended with an error."""

    state: Literal["received", "started", "ended"]
    at: Time
    task_id: Word
    function_id: Word = ""
    code: Word = ""


class TaskEvents(Struct, frozen=True, kw_only=True, tag_field="t", tag="tasks", forbid_unknown_fields=True):
    """Steps in their order. `dropped`: how many could not be told before these."""

    events: Annotated[list[TaskEvent], Meta(max_length=MAX_EVENTS)]
    dropped: Annotated[int, Meta(ge=0)] = 0
