"""Where a Parsl engine's tasks ran: told by the worker with its result, or by Parsl about one that was lost."""

from __future__ import annotations

from typing import Any

from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from mep.wire.taskevents import Place, word


def place_of(where: dict[str, Any], jobs: dict[str, Any]) -> tuple[Place, float]:
    """Return the place and the time (Unix seconds, 0: not known) that a worker told. `jobs`: block to batch job.

    Workers may have another version of mep than ours, and are the user's: nothing is taken for granted.
    """
    pid, at = where.get("pid"), where.get("at")
    block = str(where.get("block") or "")
    place = Place(
        pid=pid if isinstance(pid, int) and 0 < pid <= 1 << 31 else 0,
        host=word(str(where.get("host") or "")),
        block=word(block),
        job=word(str(jobs.get(block, ""))),
    )
    return place, at if isinstance(at, float) and 0 < at < 1e11 else 0.0


def place_of_loss(error: BaseException, blocks: dict[str, str], jobs: dict[str, Any]) -> Place | None:
    """Return where a task was when its worker or its manager was lost, as far as Parsl tells; else None.

    `blocks`: manager to block, of all managers that were ever seen. Of a worker Parsl tells the host alone.
    """
    if isinstance(error, ManagerLost):
        block = blocks.get(error.manager_id.decode(errors="replace"), "")
    elif isinstance(error, WorkerLost):
        known = set(blocks.values())
        block = known.pop() if len(known) == 1 else ""
    else:
        return None
    return Place(host=word(str(error.hostname)), block=word(block), job=word(str(jobs.get(block, ""))))
