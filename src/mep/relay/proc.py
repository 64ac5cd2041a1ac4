"""A child process by pidfd: its end is an event, and its name (pid and start time) is never another's."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessKey:
    """Names one process for ever: a pid alone is used again, a start time (and boot) with it is not."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessKey:
        """Return the key of a live process; OSError if there is none."""
        return cls(pid, _start_ticks(pid), _boot_id())

    def is_alive(self) -> bool:
        """Tell whether it still runs (a zombie does not)."""
        try:
            return self.boot_id == _boot_id() and self.start_ticks == _start_ticks(self.pid)
        except OSError:
            return False

    def as_list(self) -> list[int | str]:
        return [self.pid, self.start_ticks, self.boot_id]


class Child:
    """A started process that leads a session of its own. `ended` is done with a text that says how."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.key = ProcessKey.of(process.pid)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_end)

    async def end(self, first: signal.Signals, timeout_s: float) -> None:
        """Send `first`; after `timeout_s`, or once it ended, SIGKILL to whatever is left of its session."""
        if not self.ended.done():
            self._process.send_signal(first)
            await asyncio.wait((self.ended,), timeout=timeout_s)
        self.kill_session()
        await self.ended

    def kill_session(self) -> None:
        """SIGKILL to all of its group. Safe after its end: a group's id is not used again while it has members."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self.ended.set_result(f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}")


async def kill_session(key: ProcessKey, *, timeout_s: float = 5.0) -> None:
    """SIGKILL to the group that the process `key`, not our child, leads; return when it has ended."""
    try:
        pidfd = os.pidfd_open(key.pid)
    except ProcessLookupError:
        return
    try:
        if key.is_alive():  # looked at after the pidfd is ours: no other process can have the pid now
            os.killpg(key.pid, signal.SIGKILL)
            await asyncio.to_thread(select.select, [pidfd], [], [], timeout_s)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _start_ticks(pid: int) -> int:
    """Return clock ticks between boot and the process's start; OSError if it does not run."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(pid)
    return int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
