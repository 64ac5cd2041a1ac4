"""Resource limits of this process, which are lowered and never raised."""

from __future__ import annotations

import resource

from mep.base.codes import Code
from mep.base.errors import HostError


def lower(kind: int, wanted: int) -> None:
    """Bring soft and hard limit `kind` (resource.RLIMIT_*) down to `wanted`; what is lower already stays."""
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else min(limit, wanted) for limit in resource.getrlimit(kind)
    )
    resource.setrlimit(kind, (soft, hard))


def no_more_processes() -> HostError:
    """What the kernel means by EAGAIN, whether an rlimit or a cgroup has met its limit."""
    return HostError(
        Code.LIMIT_EXCEEDED, "You have as many processes as you may have here: no more can be started."
    )
