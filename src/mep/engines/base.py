"""What a user endpoint asks of an engine, and what it gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.wire import envelope
from mep.wire.taskevents import Place


@dataclass(frozen=True, slots=True)
class Call:
    """One task, still packed. `serializers`: import paths for the result, in the order to be tried."""

    task_id: str
    function_id: str
    buffer: str
    resources: dict[str, Any] = field(default_factory=dict)
    serializers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: the result's envelope, as it goes to the broker, and its error's code ("" = returned).

    `place` where it ran and `ran_at` since when (Unix seconds), from engines that know these only now.
    """

    task_id: str
    body: bytes
    code: str = ""
    place: Place | None = None
    ran_at: float = 0.0


OnStart = Callable[[str], None]
OnRunning = Callable[[str, Place], None]
OnDone = Callable[[Outcome], None]


@dataclass(frozen=True)
class Surroundings:
    """What every engine is told of the user endpoint it runs in. The paths are absolute and exist."""

    uep_id: str
    state_dir: str
    title: str  # of worker processes, for the process list
    on_start: OnStart  # this task is handed to a worker now: from here on it may have had effects
    on_done: OnDone  # exactly once for each submitted task, on the loop
    on_broken: Callable[[str], None] = lambda _why: None  # it can run nothing more; what it had has failed
    on_running: OnRunning = lambda _task_id, _place: None  # a worker has it; an outcome may say so instead
    may_rerun: Callable[[str], bool] = lambda _task_id: False  # a task whose worker died may be started again


class Engine(Protocol):
    """Runs calls. All methods are called on the loop's thread, and so are the callbacks."""

    kind: str

    @property
    def workers(self) -> int:
        """How many calls can run at the same time, as far as known; bounds what is taken from the queue."""
        ...

    async def start(self) -> None:
        """Get ready; MepError(ENGINE_FAILED) says why not."""
        ...

    def submit(self, call: Call) -> None:
        """Run it when there is room. What is wrong with the call itself comes back as its outcome."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what status reports tell of the engine (stock key names)."""
        ...

    def hold(self) -> None:
        """Start no more calls, as far as that can be helped; what runs goes on."""
        ...

    async def stop(self, grace_s: float) -> None:
        """End everything it started. Calls that still run get no outcome."""
        ...


def failure(task_id: str, code: str, text: str, *, message: str = "", started_ns: int = 0) -> Outcome:
    """Return the outcome of a task that failed outside of its function; `text` is what the user reads."""
    now = time.time_ns()
    statuses = [
        envelope.Transition(timestamp=started_ns or now, state="waiting-for-launch", actor="interchange"),
        envelope.Transition(timestamp=now, state="execution-end", actor="interchange"),
    ]
    result = envelope.Result(
        task_id=task_id,
        data=text,
        error_details=envelope.ErrorDetails(code=code, user_message=message or text),
        details=None,
        task_statuses=statuses,
    )
    return Outcome(task_id, envelope.encode(result), code)


def refuse_resources(call: Call, kind: str) -> Outcome | None:
    """Return the failure of a call that asks for resources which engine `kind` cannot give, or None."""
    if not call.resources:
        return None
    names = ", ".join(sorted(call.resources))
    text = (
        f"resource_specification ({names}) is not supported by {kind}. "
        "Leave it out, or use an endpoint with GlobusMPIEngine."
    )
    return failure(call.task_id, "RemoteExecutionError", text)


def engine_failed(kind: str, why: str, *, admin: str | None = None) -> InputError:
    """Return the error of an engine that cannot start."""
    return InputError(Code.ENGINE_FAILED, f"{kind} could not start: {why}", admin_text=f"{kind}: {admin or why}")
