"""What one user endpoint may use: by cgroup controllers where they are delegated to us, by rlimits otherwise."""

from __future__ import annotations

import resource
from collections.abc import Collection
from dataclasses import dataclass, fields

_CPU_PERIOD_US = 100_000
_CPU_LEAST_US = 1_000  # the kernel takes no less


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes, bytes, processes and threads, CPUs' worth of time; None: no limit."""

    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    cpu: float | None = None

    def lowered(self, other: Limits) -> Limits:
        """Return the lower of each pair: nothing that is asked for later can raise a limit."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Limits(**{n: min((v for v in pair if v is not None), default=None) for n, pair in pairs.items()})

    def cgroup_files(self) -> dict[str, str]:
        """Return what to write into which file of a cgroup."""
        wanted: dict[str, str] = {}
        if self.memory is not None:
            wanted["memory.max"] = str(self.memory)
            wanted["memory.oom.group"] = "0"  # one worker's end is better than everybody's
        if self.swap is not None:
            wanted["memory.swap.max"] = str(self.swap)
        if self.pids is not None:
            wanted["pids.max"] = str(self.pids)
        if self.cpu is not None:
            wanted["cpu.max"] = f"{max(int(self.cpu * _CPU_PERIOD_US), _CPU_LEAST_US)} {_CPU_PERIOD_US}"
        return wanted

    def rlimits(self, controllers: Collection[str]) -> dict[int, int]:
        """Return the rlimits that stand in for missing controllers; they count per process, or per account."""
        wanted: dict[int, int] = {}
        if self.memory is not None and "memory" not in controllers:
            wanted[resource.RLIMIT_AS] = self.memory
        if self.pids is not None and "pids" not in controllers:
            wanted[resource.RLIMIT_NPROC] = self.pids
        return wanted


def how_enforced(controllers: Collection[str]) -> dict[str, str]:
    """Return, for each limit, by what it is enforced here: "cgroup", "rlimit" or "" (not at all)."""
    return {
        "memory": "cgroup" if "memory" in controllers else "rlimit (address space of each process)",
        "swap": "cgroup" if "memory" in controllers else "",
        "pids": "cgroup" if "pids" in controllers else "rlimit (all processes of the account)",
        "cpu": "cgroup" if "cpu" in controllers else "",
    }


def describe_limits(controllers: Collection[str]) -> str:
    """Return in one phrase what enforces which limits here."""
    ways: dict[str, list[str]] = {}
    for name, how in how_enforced(controllers).items():
        ways.setdefault(how.partition(" ")[0] or "nothing", []).append(name)
    return ", ".join(f"{how} ({', '.join(names)})" for how, names in ways.items())
