"""An event loop with a clock of its own, on which whole processes can be killed.

Time stands still while there is anything to do, and jumps to the next timer when there is not. What is scheduled
by a coroutine of a `Process` is silently not run once that is dead: a kill -9 leaves no `finally` behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import traceback
from collections.abc import Callable, Coroutine
from typing import Any


class Process:
    """Something that can be killed."""

    def __init__(self, name: str) -> None:
        self.name, self.dead = name, False

    def run(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let `work`, and all that comes of it, be this process's."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        task = loop.create_task(work, context=context)
        task.add_done_callback(_report)
        return task

    def call(self, function: Callable[[], Any]) -> Any:
        """Run `function` as this process."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return context.run(function)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        text = "".join(traceback.format_exception(error))
        task.get_loop().call_exception_handler({"message": text})


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Selector(selectors.DefaultSelector):
    """Never waits: tells the loop's clock how far to jump instead."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.jump(timeout)
        return ready


def settle(future: asyncio.Future[Any], value: Any = None) -> None:
    """Give the future its value, unless it is over already."""
    if not future.done():
        future.set_result(value)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.jump = self._jump
        self.now = 1_000_000.0
        self.reviving = False  # at the end: let the dead be taken down in order
        self._kept: list[asyncio.Task[Any]] = []  # nobody else holds those of the dead
        super().__init__(selector)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        self._kept.append(super().create_task(coro, **options))
        return self._kept[-1]

    def time(self) -> float:
        return self.now

    def _jump(self, seconds: float) -> None:
        self.now += seconds

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override] # their variadic generics have no short form
        """Nobody sends signals here."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override] # as above
        return super().call_soon(self._unless_dead(callback, context), *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override] # as above
        return super().call_at(when, self._unless_dead(callback, context), *args, context=context)

    def _unless_dead(self, callback: Any, context: Any) -> Any:
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None:
            return callback

        def run(*args: Any) -> None:
            if not process.dead or self.reviving:
                callback(*args)

        return run


def current() -> Process | None:
    """Return whose code runs."""
    return _PROCESS.get()
