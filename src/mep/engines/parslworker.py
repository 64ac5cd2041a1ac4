"""What a Parsl worker is asked to call. The worker's installation of mep may be of another version than ours."""

from __future__ import annotations

import os
import time
from typing import Any

from mep.engines.ear import tell
from mep.engines.lost import give_way
from mep.engines.worker import Bench, execute, flush_output

_BENCH_FIELDS = frozenset(Bench.__dataclass_fields__)


def run(
    buffer: bytes, task_id: str, serializers: list[str], bench: dict[str, Any]
) -> tuple[str, bytes, dict[str, Any]]:
    """Return (error code, result's envelope, where and since when it ran) of the call.

    What a newer endpoint adds to `bench` is ignored.
    """
    give_way()
    where = {
        "at": time.time(),
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "block": os.environ.get("PARSL_WORKER_BLOCK_ID", ""),
    }
    if ear := bench.get("ear"):
        tell(ear, {"task": task_id, **where})
    known = {name: value for name, value in bench.items() if name in _BENCH_FIELDS}
    if "allowed_serializers" in known:
        known["allowed_serializers"] = tuple(known["allowed_serializers"])
    code, body = execute(buffer.decode(), task_id, tuple(serializers), Bench(**known))
    if os.getpid() != where["pid"]:
        os._exit(0)  # the function forked and its child came back here: this is not a worker
    flush_output()
    return code, body, where
