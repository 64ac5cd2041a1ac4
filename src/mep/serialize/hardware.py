"""A report on the machine that a worker runs on, as text for people."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys


def hardware_report() -> str:
    """Return the facts of this host and interpreter, one `name: value` per line."""
    facts = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cores usable here": len(os.sched_getaffinity(0)),
        "python": sys.version.replace("\n", " "),
        "interpreter": sys.executable,
        "working directory": os.getcwd(),
        **_memory(),
        **_disks(),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def _memory() -> dict[str, str]:
    facts = {}
    try:
        with open("/proc/meminfo") as lines:
            wanted = {"MemTotal": "memory", "MemAvailable": "memory available", "SwapTotal": "swap"}
            for line in lines:
                key, _, value = line.partition(":")
                if key in wanted:
                    facts[wanted[key]] = f"{int(value.split()[0]) / 1024 / 1024:.1f} GiB"
    except (OSError, ValueError):
        pass  # not Linux: a report without memory is still one
    return facts


def _disks() -> dict[str, str]:
    facts = {}
    for name, path in (("temporary space", "/tmp"), ("home space", os.path.expanduser("~"))):  # noqa: S108
        try:
            facts[name] = f"{shutil.disk_usage(path).free / 1024**3:.1f} GiB free in {path}"
        except OSError:
            pass
    return facts
