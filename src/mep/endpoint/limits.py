"""The template's `limits`: what this user endpoint and all it starts may use, below what config.yaml allows.

Where the daemon has a cgroup controller it is asked to lower that; elsewhere the process lowers its own rlimits.
"""

from __future__ import annotations

import logging
import os
import resource
import socket

from mep.base import rlimits
from mep.config.kinds import Limits
from mep.wire.launch import Launch
from mep.wire.privsep import Channel, ChildToMonitor, Lower, MonitorToChild

log = logging.getLogger(__name__)

#: The rlimit that stands in for a missing controller.
_RLIMITS = {"memory": resource.RLIMIT_AS, "pids": resource.RLIMIT_NPROC}


def lower_limits(launch: Launch, wanted: Limits) -> None:
    """Put `wanted` into force before the engine starts; what nothing here can enforce is logged.

    HostError(LIMIT_EXCEEDED): no process of the engine's could be started.
    """
    asked = wanted.model_dump(exclude_none=True)
    for name, kind in _RLIMITS.items():
        if name in asked and name not in launch.controllers:
            rlimits.lower(kind, asked[name])
    by = {"swap": "memory"}
    for name in asked:
        if by.get(name, name) not in launch.controllers and name not in _RLIMITS:
            log.warning("limits.%s is not enforced here: no cgroup controller is delegated to the endpoint", name)
    if asked and launch.controllers and launch.monitor_fd >= 0:
        _ask_monitor(launch.monitor_fd, Lower(**asked))
    _need_room()


def _need_room() -> None:
    try:
        os.posix_spawn("/", ["/"], {})  # it is forked, finds that it cannot be run, and is gone
    except BlockingIOError:
        raise rlimits.no_more_processes() from None
    except OSError:
        pass


def _ask_monitor(fd: int, message: Lower) -> None:
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.settimeout(5.0)
        Channel[ChildToMonitor, MonitorToChild](sock, MonitorToChild).send(message)
