"""Parsl objects from plain data: executor, provider, launcher, address. Imports Parsl."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any, Final

import parsl.addresses
import parsl.executors.high_throughput.manager_selector
import parsl.launchers
import parsl.providers

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.engines import ParslEngine
from mep.engines.containers import in_container
from mep.engines.parslpool import OWNER
from mep.engines.parslquick import QuickHighThroughputExecutor, QuickMPIExecutor

Executor = QuickHighThroughputExecutor | QuickMPIExecutor

_TUPLES: Final = ("worker_port_range", "interchange_port_range")
#: Also how soon Parsl notices that a worker died; over the network of a cluster it stays Parsl's own 30 s.
_LOCAL_HEARTBEAT_S: Final = 2
_LOCAL_LAUNCHERS: Final = (None, "SimpleLauncher", "SingleNodeLauncher")


def build_executor(config: ParslEngine, *, run_dir: str) -> Executor:
    """Return the executor that `config` describes, not started; InputError(CONFIG_INVALID) in Parsl's words."""
    kind = config.type  # type: ignore[attr-defined] # each engine's settings class has its own
    options = {name: _plain(name, value) for name, value in config.executor_options.items()}
    if isinstance(options.get("manager_selector"), dict):
        module = parsl.executors.high_throughput.manager_selector
        options["manager_selector"] = _typed(module, options["manager_selector"], "manager_selector")
    provider = _provider(config.provider)
    here = _stays_here(config.provider) and config.container_type is None
    address = _address(config)
    if address is not None:
        options["address"] = address
    elif here:
        options["address"] = "127.0.0.1"  # workers of this host only: nobody else can even connect
    if here:
        options.setdefault("heartbeat_period", _LOCAL_HEARTBEAT_S)
    executor_class = QuickMPIExecutor if kind == "GlobusMPIEngine" else QuickHighThroughputExecutor
    executor: Executor = _make(
        executor_class,
        {"label": config.label or kind, "provider": provider, "encrypted": config.encrypted, **options},
        kind,
    )
    executor.run_dir = run_dir
    provider.script_dir = os.path.join(run_dir, "submit_scripts")
    os.makedirs(provider.script_dir, mode=0o700, exist_ok=True)
    # our interpreter, wherever PATH points; and the workers need not have our versions of Python and Parsl
    executor.interchange_launch_cmd = [sys.executable, "-m", "parsl.executors.high_throughput.interchange"]
    executor._check_python_mismatch = False
    if here and not config.provider.get("worker_init") and "launch_cmd" not in options:
        pool = f"env {OWNER}={os.getpid()} {shlex.quote(sys.executable)} -m mep.engines.parslpool"
        executor.launch_cmd = executor.launch_cmd.replace("process_worker_pool.py", pool, 1)
    executor.launch_cmd = in_container(config, executor.launch_cmd, run_dir=run_dir)
    return executor


def scaling(config: ParslEngine) -> dict[str, Any]:
    """Return `strategy`, `max_idletime` (seconds) and `strategy_period` (seconds)."""
    chosen: dict[str, Any] = {"strategy": "simple", "max_idletime": 120.0, "strategy_period": 5.0}
    if isinstance(config.strategy, str):
        chosen["strategy"] = config.strategy
    elif config.strategy:  # the older spelling: {type: SimpleStrategy, max_idletime: 60}
        chosen.update({name: value for name, value in config.strategy.items() if name in chosen})
    chosen.update(config.job_status_kwargs)
    return chosen


def _provider(data: dict[str, Any]) -> Any:
    options = dict(data)
    if isinstance(options.get("launcher"), dict):
        options["launcher"] = _typed(parsl.launchers, options["launcher"], "launcher")
    # the workers' program comes from the environment that worker_init sets up; ours is the last resort
    ours = shlex.quote(os.path.dirname(sys.executable))
    kind = options.get("type")
    if kind not in ("KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"):
        options["worker_init"] = f'export PATH="$PATH":{ours}\n{options.get("worker_init", "")}'
    return _typed(parsl.providers, options, "provider")


def _address(config: ParslEngine) -> str | None:
    if isinstance(config.address, dict):
        return str(_typed(parsl.addresses, config.address, "address"))
    return config.address


def _stays_here(provider: dict[str, Any]) -> bool:
    launcher = provider.get("launcher") or {}
    return (
        provider.get("type") == "LocalProvider"
        and provider.get("nodes_per_block", 1) == 1
        and launcher.get("type") in _LOCAL_LAUNCHERS
    )


def _typed(module: Any, data: dict[str, Any], what: str) -> Any:
    options = dict(data)
    kind = str(options.pop("type"))
    return _make(getattr(module, kind), options, f"{what} {kind}")


def _make(factory: Any, options: dict[str, Any], what: str) -> Any:
    try:
        return factory(**options)
    except Exception as error:  # whatever Parsl finds wrong, it was the configuration's
        names = ", ".join(name for name in options if name != "provider")
        raise InputError(
            Code.CONFIG_INVALID, f"engine: {what} does not accept its options ({names}): {_words(error)}"
        ) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _plain(name: str, value: Any) -> Any:
    """YAML has no tuples."""
    return tuple(value) if name in _TUPLES and isinstance(value, list) else value
