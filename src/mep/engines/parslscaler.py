"""The thread that starts a Parsl executor, scales its blocks, watches its health and stops it.

Parsl's calls block (a scheduler's commands, its interchange's start), so none is made on the loop. One thread
makes them all, from start to stop: the interchange dies with the thread that started it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.jobs.states import JobState
from parsl.jobs.strategy import Strategy

log = logging.getLogger(__name__)

_SHUTDOWN_WITHIN_S = 5.0
_CANCEL_WITHIN_S = 0.3  # local blocks are killed after that: their tasks have had their time


class InterchangeDied(Exception):
    """Parsl's interchange process ended by itself."""


class Scaler:
    """Runs an executor in a thread of its own. `on_started` hears None or what went wrong; from that thread.

    `on_polled` hears the connected managers after each poll.
    """

    def __init__(
        self,
        executor: HighThroughputExecutor,
        scaling: dict[str, Any],
        *,
        on_started: Callable[[BaseException | None], None],
        on_polled: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._executor: Any = executor
        self._on_started, self._on_polled = on_started, on_polled
        self._period_s = max(0.1, float(scaling["strategy_period"]))
        self._strategy = Strategy(strategy=scaling["strategy"], max_idletime=scaling["max_idletime"])
        self._strategy.add_executors([executor])
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="parsl-scaler", daemon=True)

    def start(self) -> None:
        """Begin; `on_started` tells the rest."""
        self._thread.start()

    def poke(self) -> None:
        """Scale now rather than at the next period: there is work and nobody to do it."""
        self._wake.set()

    def stop(self) -> None:
        """Ask the thread to end everything; see `join`."""
        self._stop = True
        self._wake.set()

    def join(self, timeout_s: float) -> bool:
        """Wait until everything has ended; False if it took longer."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ---- in the thread ----

    def _run(self) -> None:
        try:
            self._executor.start()
        except BaseException as error:  # noqa: BLE001 - told to the engine, which tells the user
            self._on_started(error)
            self._shut_down()
            return
        self._on_started(None)
        while not self._stop:
            self._poll()
            self._wake.wait(self._period_s)
            self._wake.clear()
        self._shut_down()

    def _poll(self) -> None:
        executor = self._executor
        try:
            status = executor.interchange_proc.poll()
            if status is not None and not executor.bad_state_is_set:
                executor.set_bad_state_and_fail_all(
                    InterchangeDied(f"Parsl's interchange ended with status {status}")
                )
            if executor.bad_state_is_set:
                return
            executor.poll_facade()
            executor.handle_errors(executor.status_facade)
            self._strategy.strategize([executor])
            self._on_polled(executor.connected_managers())
        except Exception:
            log.exception("scaling: Parsl failed; trying again")

    def _shut_down(self) -> None:
        executor = self._executor
        try:
            blocks = [b for b, s in executor.status_facade.items() if s.state is not JobState.SCALED_IN]
            if blocks:
                self._cancel_blocks()
            executor.shutdown(timeout=_SHUTDOWN_WITHIN_S)
        except Exception:
            log.exception("stop: Parsl failed")
        proc = executor.interchange_proc
        if proc is not None and proc.poll() is None:
            proc.kill()
            proc.wait()

    def _cancel_blocks(self) -> None:
        executor = self._executor
        jobs = list(executor.blocks_to_job_id.values())
        groups = _local_groups(executor.provider)
        if jobs:
            executor.provider.cancel(jobs)
        deadline = time.monotonic() + _CANCEL_WITHIN_S
        while groups and time.monotonic() < deadline:
            groups = {group for group in groups if _exists(group)}
            time.sleep(0.02)
        for group in groups:
            _kill_group(group)


def _local_groups(provider: Any) -> set[int]:
    """Return the process groups of a LocalProvider's blocks: its cancel asks them to end, and does not look."""
    groups = set()
    for job in getattr(provider, "resources", {}).values():
        pid = job.get("remote_pid")
        if isinstance(pid, int):
            try:
                group = os.getpgid(pid)
            except ProcessLookupError:
                continue
            if group != os.getpgrp():
                groups.add(group)
    return groups


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
