"""What the benchmark reads from the kernel: memory, wake-ups, and the machine's description."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any


def processes_of(uid: int) -> list[int]:
    """Return the processes whose real user is `uid`, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            text = (entry / "status").read_text()
            if f"\nUid:\t{uid}\t" in text and "\nState:\tZ" not in text:
                found.append(int(entry.name))
    return sorted(found)


def children_of(pid: int) -> list[int]:
    """Return all descendants of `pid`, breadth first."""
    found: list[int] = []
    queue = [pid]
    while queue:
        with contextlib.suppress(OSError):
            parent = queue.pop(0)
            for task in Path(f"/proc/{parent}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text().split()]
        found = [*found, *(p for p in queue if p not in found)]
    return found


def title_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def end_processes_of(uids: Iterable[int], *, within_s: float = 5.0) -> None:
    """Ask every process of these users to end, make those that do not, return when none is left."""
    for number, limit_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + limit_s
        sent: set[int] = set()
        while pids := [pid for uid in uids for pid in processes_of(uid)]:
            for pid in pids:
                if pid not in sent:
                    with contextlib.suppress(OSError):
                        os.kill(pid, number)
                    sent.add(pid)
            if time.monotonic() > end:
                break
            time.sleep(0.02)


def memory_mib(pids: Iterable[int]) -> tuple[float, float]:
    """Return (PSS, private) of the processes together, in MiB: PSS divides what is shared by its sharers."""
    pss = private = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name == "Pss":
                    pss += int(rest.split()[0])
                elif name in ("Private_Clean", "Private_Dirty"):
                    private += int(rest.split()[0])
    return pss / 1024, private / 1024


def system_calls(pids: list[int], seconds: float) -> dict[int, int]:
    """Return how many system calls each process (threads included) made in `seconds`, counted by strace."""
    tracers = {
        pid: subprocess.Popen(
            [shutil.which("strace") or "strace", "-f", "-c", "-U", "calls,name", "-p", str(pid)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for pid in pids
    }
    time.sleep(seconds)
    counts = {}
    for pid, tracer in tracers.items():
        tracer.send_signal(signal.SIGINT)
        _, table = tracer.communicate(timeout=10)
        total = re.search(r"^\s*(\d+)\s+total$", table, re.MULTILINE)
        counts[pid] = int(total.group(1)) if total else 0
    return counts


def machine() -> dict[str, Any]:
    """Return what a reader needs to compare numbers: hardware, kernel, versions, load at the start."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.group(1)) / 1024 / 1024, 1) if memory else None,
        "kernel": platform.release(),
        "system": _pretty_name(),
        "python": platform.python_version(),
        "rabbitmq": _package_version("rabbitmq-server"),
        "pika": metadata.version("pika"),
        "parsl": metadata.version("parsl"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _pretty_name() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.system()


def _package_version(package: str) -> str:
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    if shutil.which(query[0]) is None:
        return ""
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used so far, to the scheduler's own precision."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9
