"""Parsl objects from a template's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.engines import GlobusComputeEngine, GlobusMPIEngine
from mep.engines.parslbuild import build_executor, scaling


def settings(**options: Any) -> GlobusComputeEngine:
    return GlobusComputeEngine.model_validate({"type": "GlobusComputeEngine", **options})


def test_a_local_provider_stays_on_the_loopback(tmp_path: Path) -> None:
    executor = build_executor(settings(), run_dir=str(tmp_path))
    assert executor.address == "127.0.0.1"
    assert executor.encrypted
    assert "mep.engines.parslpool" in executor.launch_cmd


def test_with_worker_init_the_workers_come_from_the_users_environment(tmp_path: Path) -> None:
    provider = {"type": "LocalProvider", "worker_init": "source activate mine"}
    executor = build_executor(settings(provider=provider), run_dir=str(tmp_path))
    assert executor.launch_cmd.startswith("process_worker_pool.py")
    made: Any = executor.provider
    assert made.worker_init.endswith("\nsource activate mine")
    assert made.worker_init.startswith('export PATH="$PATH":')


def test_nested_objects_are_built_by_type(tmp_path: Path) -> None:
    executor = build_executor(
        settings(
            max_workers_per_node=3,
            worker_port_range=[50000, 51000],
            address={"type": "address_by_hostname"},
            manager_selector={"type": "BlockIdManagerSelector"},
            provider={
                "type": "SlurmProvider",
                "partition": "debug",
                "launcher": {"type": "SrunLauncher", "overrides": "-K0"},
            },
        ),
        run_dir=str(tmp_path),
    )
    provider: Any = executor.provider
    assert type(provider).__name__ == "SlurmProvider"
    assert provider.partition == "debug"
    assert provider.launcher.overrides == "-K0"
    assert provider.script_dir == str(tmp_path / "submit_scripts")
    assert executor.max_workers_per_node == 3
    assert executor.worker_port_range == (50000, 51000)
    assert type(executor.manager_selector).__name__ == "BlockIdManagerSelector"


def test_what_parsl_refuses_is_told_with_the_options_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_workers_per_node") as caught:
        build_executor(settings(max_workers_per_node="many"), run_dir=str(tmp_path))
    assert caught.value.code is Code.CONFIG_INVALID


def test_the_mpi_engine_wants_the_simple_launcher(tmp_path: Path) -> None:
    config = GlobusMPIEngine.model_validate({"type": "GlobusMPIEngine"})
    with pytest.raises(InputError, match="SimpleLauncher"):
        build_executor(config, run_dir=str(tmp_path))
    provider = {"type": "LocalProvider", "launcher": {"type": "SimpleLauncher"}}
    config = GlobusMPIEngine.model_validate({"type": "GlobusMPIEngine", "provider": provider})
    assert build_executor(config, run_dir=str(tmp_path)).enable_mpi_mode


@pytest.mark.parametrize(
    ("options", "command"),
    [
        (
            {"container_type": "docker", "container_uri": "image", "container_cmd_options": "-v /x:/x"},
            "docker run -v /x:/x -v RUN:RUN -t image process_worker_pool.py ",
        ),
        ({"container_type": "apptainer", "container_uri": "a.sif"}, "apptainer run a.sif process_worker_pool.py "),
        (
            {"container_type": "custom", "container_cmd_options": "mine {EXECUTOR_RUNDIR} {EXECUTOR_LAUNCH_CMD}"},
            "mine RUN process_worker_pool.py ",
        ),
    ],
)
def test_workers_start_in_the_container(tmp_path: Path, options: dict[str, Any], command: str) -> None:
    executor = build_executor(settings(**options), run_dir=str(tmp_path))
    assert executor.launch_cmd.startswith(command.replace("RUN", str(tmp_path)))


@pytest.mark.parametrize("options", [{"container_type": "docker"}, {"container_type": "custom"}])
def test_a_container_needs_its_image_or_command(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="container_"):
        build_executor(settings(**options), run_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"strategy": "simple", "max_idletime": 120.0, "strategy_period": 5.0}),
        ({"strategy": "none"}, {"strategy": "none", "max_idletime": 120.0, "strategy_period": 5.0}),
        (
            {"job_status_kwargs": {"max_idletime": 3, "strategy": "htex_auto_scale"}},
            {"strategy": "htex_auto_scale", "max_idletime": 3, "strategy_period": 5.0},
        ),
    ],
)
def test_scaling_settings(options: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert scaling(settings(**options)) == wanted
