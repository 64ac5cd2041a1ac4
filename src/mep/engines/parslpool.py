"""The program that the Parsl engine starts for workers on this host: Parsl's worker pool, made quicker.

Parsl starts each worker as a fresh interpreter that imports Parsl again. Here the workers are forked by Python's
fork server, a process with one thread that imports everything once, while the pool itself is still importing.
"""

from __future__ import annotations

import multiprocessing
import runpy
import sys
from multiprocessing import forkserver

_POOL = "parsl.executors.high_throughput.process_worker_pool"


def main() -> None:
    """Become Parsl's worker pool; its arguments are in sys.argv."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_POOL, "mep.engines.parslworker"])
    forkserver.ensure_running()
    import parsl.multiprocessing

    parsl.multiprocessing.SpawnContext = context  # type: ignore[assignment] # the same interface
    sys.modules.pop(_POOL, None)
    runpy.run_module(_POOL, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
