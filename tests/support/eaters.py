"""Functions that use a lot of something; they run in a user endpoint."""

from __future__ import annotations


def eat_memory(mebibytes: int) -> int:
    """Use this much memory, page by page, then let it go."""
    kept = bytearray(mebibytes * 2**20)
    for place in range(0, len(kept), 4096):
        kept[place] = 1
    return len(kept) // 2**20


def fork_many(count: int, hold_until: str) -> list[int]:
    """Start processes until there are `count`, or the kernel refuses; return how many, and with which error.

    They live until the file `hold_until` is there.
    """
    import os
    import signal
    import time

    children: list[int] = []
    refusal = 0
    for _ in range(count):
        try:
            child = os.fork()
        except OSError as error:
            refusal = error.errno or -1
            break
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)
    while not os.path.exists(hold_until):
        time.sleep(0.1)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [len(children), refusal]


def spin(seconds: float) -> float:
    """Keep two processes busy for so many seconds; return how many CPUs' worth of time they got."""
    import os
    import time

    began, before = time.monotonic(), time.process_time()
    other = os.fork()
    while time.monotonic() - began < seconds:
        pass
    if other == 0:
        os._exit(0)
    _, _, used = os.wait4(other, 0)
    mine = time.process_time() - before
    return (used.ru_utime + used.ru_stime + mine) / (time.monotonic() - began)


def my_cgroup() -> dict[str, str]:
    """Return the limits of the cgroup that this runs in, and its path."""
    from pathlib import Path

    path = Path("/proc/self/cgroup").read_text().strip().removeprefix("0::")
    folder = Path("/sys/fs/cgroup" + path)
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max")
    return {"path": path} | {name: (folder / name).read_text().strip() for name in names}
