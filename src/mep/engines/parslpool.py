"""The program that the Parsl engine starts for workers on this host: Parsl's worker pool, made quicker.

Parsl starts each worker as a fresh interpreter that imports Parsl again. Here the workers are forked by Python's
fork server, a process with one thread that imports everything once, while the pool itself is still importing.
And where Parsl's pool would wait minutes for its interchange to come back, this one ends with its user endpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import select
import signal
import sys
import threading
from multiprocessing import forkserver

OWNER = "MEP_USER_ENDPOINT_PID"
_POOL = "parsl.executors.high_throughput.process_worker_pool"


def main() -> None:
    """Become Parsl's worker pool; its arguments are in sys.argv."""
    _end_with(int(os.environ[OWNER]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_POOL, "mep.engines.parslworker"])
    forkserver.ensure_running()
    import parsl.multiprocessing

    parsl.multiprocessing.SpawnContext = context  # type: ignore[assignment] # the same interface
    sys.modules.pop(_POOL, None)
    runpy.run_module(_POOL, run_name="__main__", alter_sys=True)


def _end_with(pid: int) -> None:
    """End this process group, which Parsl's local provider made for this block, when process `pid` ends."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        sys.exit(0)

    def watch() -> None:
        select.select([pidfd], [], [])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
