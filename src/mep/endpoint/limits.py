"""The template's `limits`: what this user endpoint and all it starts may use, below what config.yaml allows.

Where the daemon has a cgroup controller it is asked to lower that; elsewhere the process lowers its own rlimits.
"""

from __future__ import annotations

import logging
import os
import resource
import socket

from mep.config.kinds import Limits
from mep.wire.launch import Launch
from mep.wire.privsep import Channel, ChildToMonitor, Lower, MonitorToChild

log = logging.getLogger(__name__)

#: The rlimit that stands in for a missing controller.
_RLIMITS = {"memory": resource.RLIMIT_AS, "pids": resource.RLIMIT_NPROC}


def lower_limits(launch: Launch, wanted: Limits) -> None:
    """Put `wanted` into force before the engine starts; what nothing here can enforce is logged."""
    asked = wanted.model_dump(exclude_none=True)
    if not asked:
        return
    for name, kind in _RLIMITS.items():
        if name in asked and name not in launch.controllers:
            _, hard = resource.getrlimit(kind)
            limit = asked[name] if hard == resource.RLIM_INFINITY else min(asked[name], hard)
            resource.setrlimit(kind, (limit, limit))
    by = {"swap": "memory"}
    for name in asked:
        if by.get(name, name) not in launch.controllers and name not in _RLIMITS:
            log.warning("limits.%s is not enforced here: no cgroup controller is delegated to the endpoint", name)
    if launch.controllers and launch.monitor_fd >= 0:
        _ask_monitor(launch.monitor_fd, Lower(**asked))


def _ask_monitor(fd: int, message: Lower) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.settimeout(5.0)
        Channel[ChildToMonitor, MonitorToChild](sock, MonitorToChild).send(message)
