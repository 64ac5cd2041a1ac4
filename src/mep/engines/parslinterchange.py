"""The program that the Parsl engine starts as its interchange: Parsl's own, which ends with the user endpoint."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become Parsl's interchange. Its parent must be the thread that stays: see `parslscaler`."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
