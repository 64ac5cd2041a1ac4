"""Whether a task whose worker died is started again: a bounded number of times, and not if it eats all memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_MEMORY_KILLS: Final = 2  # who was killed for memory so often will be again


class Losses:
    """Counts for each task how often its worker died under it, in this engine's life.

    `retries`: how often the engine's own setting allows. `may_rerun`: whether the user endpoint allows it beyond
    that (`retry_lost_tasks`); it counts the starts over all lives.
    """

    def __init__(self, retries: int, may_rerun: Callable[[str], bool]) -> None:
        self._retries, self._may_rerun = retries, may_rerun
        self._count: dict[str, int] = {}
        self._by_memory: dict[str, int] = {}

    def again(self, task_id: str, *, by_memory: bool = False, lost: bool = True) -> bool:
        """Count a failure; tell whether to start it again. `lost`: its worker died, rather than something else."""
        self._count[task_id] = self._count.get(task_id, 0) + 1
        if by_memory:
            self._by_memory[task_id] = self._by_memory.get(task_id, 0) + 1
            if self._by_memory[task_id] >= _MEMORY_KILLS:
                return False
        return self._count[task_id] <= self._retries or (lost and self._may_rerun(task_id))

    def forget(self, task_id: str) -> int:
        """It has ended: return how often it had failed."""
        self._by_memory.pop(task_id, None)
        return self._count.pop(task_id, 0)
