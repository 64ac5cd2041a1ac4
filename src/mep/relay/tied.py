"""Run a program that cannot outlive the process that started it: `python tied.py PARENT_PID PROGRAM [ARG...]`.

Stands between the relay and its broker node. A step of its own, and not a `preexec_fn`, because the relay has
threads, and Python code between fork and exec may wait for a lock that one of them held. It imports nothing of
mep: it is run by path, with `-I -S`, and costs some 20 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGKILL at the parent's end, check that there is still a parent, become the program."""
    parent_pid, program = int(sys.argv[1]), sys.argv[2]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the parent has ended already")
    try:
        os.execv(program, sys.argv[2:])  # noqa: S606 - no shell wanted
    except OSError as error:
        sys.exit(f"{program}: {error.strerror}")


if __name__ == "__main__":
    main()
