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
#: A process id; 0: not known.
Pid = Annotated[int, Meta(ge=0, le=1 << 31)]

#: How far a task is: taken from the broker, given to the engine, at work in a worker, answered.
State = Literal["received", "started", "running", "ended"]

#: The most that fits a message, where ids are as long as ours.
MAX_EVENTS = 500
#: What the texts of a message's events may have in all, so that it stays below the cap of any message.
MAX_EVENT_CHARS = 44_000


class Place(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a task runs: the worker's process, its host ("": the user endpoint's own), its block and batch job."""

    pid: Pid = 0
    host: Word = ""
    block: Word = ""
    job: Word = ""


class TaskEvent(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One step of one task. `at`: Unix seconds. `code`: of a task that ended with an error. `place`: if known."""

    state: State
    at: Time
    task_id: Word
    function_id: Word = ""
    code: Word = ""
    place: Place | None = None

    def chars(self) -> int:
        """Return how long its texts are together."""
        place = self.place
        where = len(place.host) + len(place.block) + len(place.job) if place is not None else 0
        return len(self.task_id) + len(self.function_id) + len(self.code) + where


class TaskEvents(Struct, frozen=True, kw_only=True, tag_field="t", tag="tasks", forbid_unknown_fields=True):
    """Steps in their order. `dropped`: how many could not be told before these."""

    events: Annotated[list[TaskEvent], Meta(max_length=MAX_EVENTS)]
    dropped: Annotated[int, Meta(ge=0)] = 0


def word(text: str) -> str:
    """Return `text` as a message takes it: ids and names come from others."""
    return text if len(text) <= 64 and text.isascii() and text.isprintable() and " " not in text else "?"
