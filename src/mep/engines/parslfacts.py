"""What a Parsl engine tells of itself in status reports (stock key names)."""

from __future__ import annotations

import math
from typing import Any

from parsl.executors import HighThroughputExecutor

import mep


def parsl_facts(
    kind: str, executor: HighThroughputExecutor, managers: list[dict[str, Any]], *, waiting: int, flying: int
) -> dict[str, Any]:
    """Return the facts from what the last poll found."""
    provider: Any = executor.provider
    on_managers = sum(int(m.get("tasks", 0)) for m in managers)
    workers = sum(int(m.get("worker_count", 0)) for m in managers)
    return {
        "managers": len(managers),
        "active_managers": sum(1 for m in managers if m.get("active")),
        "total_workers": workers,
        "idle_workers": sum(max(0, int(m.get("worker_count", 0)) - int(m.get("tasks", 0))) for m in managers),
        "pending_tasks": waiting + max(0, flying - on_managers),
        "outstanding_tasks": waiting + flying,
        "scaling_enabled": provider.max_blocks > 0,
        "mem_per_worker": executor.mem_per_worker,
        "cores_per_worker": executor.cores_per_worker,
        "prefetch_capacity": executor.prefetch_capacity,
        "max_blocks": provider.max_blocks,
        "min_blocks": provider.min_blocks,
        "max_workers_per_node": _number(executor.max_workers_per_node),
        "nodes_per_block": provider.nodes_per_block,
        "node_info": _nodes(executor, managers),
        "engine_type": kind,
        "provider_type": type(provider).__name__,
        "queue": _first(provider, "queue", "partition"),
        "account": _first(provider, "account", "allocation", "project"),
    }


def _nodes(executor: HighThroughputExecutor, managers: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return scheduler job id -> its managers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for manager in managers:
        job = str(executor.blocks_to_job_id.get(str(manager.get("block_id")), "unknown"))
        found.setdefault(job, []).append(
            {
                "worker_count": manager.get("worker_count"),
                "idle_duration": manager.get("idle_duration"),
                "parsl_version": manager.get("parsl_version"),
                "endpoint_version": mep.__version__,
                "sdk_version": mep.__version__,
                "python_version": manager.get("python_version"),
            }
        )
    return found


def _first(provider: Any, *names: str) -> str | None:
    return next((str(value) for name in names if (value := getattr(provider, name, None))), None)


def _number(value: float) -> float | int | None:
    """JSON has no infinity."""
    return None if math.isinf(value) else value
