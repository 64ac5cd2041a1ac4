"""Imported by every interpreter that has this folder on PYTHONPATH: notes when the steps of a task's way happen.

With MEP_TRACE_FILE set, the functions in POINTS write a line (nanoseconds, pid, label) to that file as they begin
and end. The product's code knows nothing of it; what a fork inherits is traced too.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import os
import sys
import time
from typing import Any

#: module -> {qualified name: label}
POINTS: dict[str, dict[str, str]] = {
    "mep.sdk.executor": {"Executor.submit": "sdk: submit()"},
    "mep.sdk.client": {"Client.batch_run": "sdk: POST submit", "Client.get_result_amqp_url": "sdk: GET amqp url"},
    "mep.sdk.stream": {"ResultStream._on_delivery": "sdk: result arrives"},
    "mep.sdk.pending": {"Pending.settle": "sdk: future done"},
    "mep.relay.submit": {"Submitter.submit": "relay: submit"},
    "mep.relay.dispatch": {
        "Dispatch.publish": "relay: publish tasks",
        "Dispatch._warm_uep": "relay: make UEP account",
    },
    "mep.relay.starts": {"Starts._command": "relay: start command"},
    "mep.relay.commands": {"start_command": "relay: sign"},
    "mep.relay.amqp": {"RelayBroker.publish_command": "relay: publish command"},
    "mep.relay.results": {"Results.on_batch": "relay: results batch", "Results._forward": "relay: forward result"},
    "mep.relay.liveness": {"Liveness.on_batch": "relay: heartbeats batch"},
    "mep.daemon.commands": {"read": "gate: read command"},
    "mep.daemon.gate": {"Gate._ask": "gate: ask monitor", "Gate._on_decision": "gate: decision"},
    "mep.daemon.monitor": {"Monitor._on_start": "monitor: start wanted"},
    "mep.daemon.verify": {"Verifier.claims_of": "monitor: verify"},
    "mep.daemon.keeper": {  # its handlers are in a table made with the class: only what is called by name is seen
        "Keeper._fork": "monitor: fork",
        "Keeper._on_mapped": "monitor: admit",
        "Keeper._on_ready": "monitor: ready heard",
    },
    "mep.priv.clone": {"fork_into_cgroup": "clone"},
    "mep.daemon.request": {"serve_request": "child: request", "_who": "child: map identity"},
    "mep.endpoint.boot": {"run": "uep: boot"},
    "mep.endpoint.home": {"make_home": "uep: make home"},
    "mep.endpoint.prepare": {"prepare": "uep: validate and render"},
    "mep.endpoint.service": {"UserEndpoint.__init__": "uep: build"},
    "mep.endpoint.monitorlink": {"MonitorLink.ready": "uep: ready"},
    "mep.endpoint.tasks": {
        "Tasks._on_delivery": "uep: task arrives",
        "Tasks._take": "uep: task to engine",
        "Tasks.finished": "uep: task finished",
        "Tasks._on_confirmed": "uep: result confirmed",
    },
    "mep.endpoint.outbox": {"Outbox.send": "uep: publish result"},
    "mep.broker.connection": {
        "BrokerConnection._connect": "amqp: connect",
        "BrokerConnection._on_open": "amqp: open",
    },
    "mep.priv.become": {"become_user": "child: become user"},
}
_FILE = os.environ.get("MEP_TRACE_FILE", "")


def note(label: str) -> None:
    """Append one line; a user's process opens the file anew, as the user."""
    line = f"{time.time_ns()} {os.getpid()} {label}\n"
    try:
        file = os.open(_FILE, os.O_WRONLY | os.O_APPEND)
    except OSError:
        return
    os.write(file, line.encode())
    os.close(file)


def _traced(function: Any, label: str) -> Any:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def around_async(*args: Any, **kwargs: Any) -> Any:
            note(f"> {label}")
            try:
                return await function(*args, **kwargs)
            finally:
                note(f"< {label}")

        return around_async

    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        note(f"> {label}")
        try:
            return function(*args, **kwargs)
        finally:
            note(f"< {label}")

    return around


def _wrap(module: Any, points: dict[str, str]) -> None:
    for name, label in points.items():
        owner = module
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part, None)
        if owner is not None and last in vars(owner):
            setattr(owner, last, _traced(vars(owner)[last], label))


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the usual finder load a module, then wraps its functions."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in POINTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_wrap(module: Any) -> None:
            load(module)
            _wrap(module, POINTS[name])

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


if _FILE:
    sys.meta_path.insert(0, _Finder())
