"""The future of a task."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any


class ComputeFuture(Future[Any]):
    """A concurrent.futures.Future that knows its task.

    `task_id` is None until the relay has accepted the task; `task_group_id` names its group. Cancelling gives up
    the result; a task that was sent runs all the same.
    """

    def __init__(self, task_id: str | None = None, task_group_id: str | None = None) -> None:
        super().__init__()
        self.task_id = task_id
        self.task_group_id = task_group_id

    def cancel(self) -> bool:
        """Give up the result; False if it is here already."""
        if not super().cancel():
            return False
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()  # wait() and as_completed() count it from now on
        return True
