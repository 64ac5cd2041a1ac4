"""What a pool of threads or processes tells of itself and its host in status reports (stock key names)."""

from __future__ import annotations

import os
from typing import Any


def pool_facts(kind: str, workers: int, *, pending: int, running: int) -> dict[str, Any]:
    """Return the report's facts of a pool that has no blocks and does not scale."""
    return {
        "total_cores": os.cpu_count() or 1,
        "total_mem": round(_available_bytes() / 2**30, 1),
        "total_core_hrs": 0,
        "total_workers": workers,
        "idle_workers": max(0, workers - running),
        "pending_tasks": pending,
        "outstanding_tasks": pending + running,
        "scaling_enabled": False,
        "max_blocks": 1,
        "min_blocks": 1,
        "max_workers_per_node": workers,
        "nodes_per_block": 1,
        "engine_type": kind,
    }


def _available_bytes() -> int:
    """Read /proc/meminfo here: psutil would cost every user endpoint half a MiB for one number."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
