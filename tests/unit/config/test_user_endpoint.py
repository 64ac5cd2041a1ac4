from __future__ import annotations

import inspect

import pytest

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config import parsl_names
from mep.config.engines import GlobusComputeEngine, GlobusMPIEngine, ProcessPoolEngine, ThreadPoolEngine
from mep.config.parsing import ignored_settings
from mep.config.user_endpoint import UserEndpointConfig, load_user_endpoint_config


def load(text: str) -> UserEndpointConfig:
    return load_user_endpoint_config(text, source="rendered")


SLURM = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 4
  worker_port_range: [50000, 50100]
  address: {type: address_by_interface, ifname: eth0}
  strategy: simple
  job_status_kwargs: {max_idletime: 60, strategy_period: 5}
  container_type: apptainer
  container_uri: /images/a.sif
  provider:
    type: SlurmProvider
    partition: debug
    account: null
    walltime: 10:00:00
    launcher: {type: SrunLauncher, overrides: "-c 4"}
"""


def test_an_engine_is_data_with_nulls_left_out() -> None:
    engine = load(SLURM).engine
    assert isinstance(engine, GlobusComputeEngine)
    assert engine.executor_options == {"max_workers_per_node": 4, "worker_port_range": [50000, 50100]}
    assert engine.provider == {
        "type": "SlurmProvider",
        "partition": "debug",
        "walltime": "10:00:00",
        "launcher": {"type": "SrunLauncher", "overrides": "-c 4"},
    }


def test_the_four_engines() -> None:
    assert load("engine: {type: ThreadPoolEngine, max_workers: 3}").engine == ThreadPoolEngine(
        type="ThreadPoolEngine", max_workers=3
    )
    assert isinstance(load("engine: {type: ProcessPoolEngine}").engine, ProcessPoolEngine)
    mpi = load("engine: {type: GlobusMPIEngine, mpi_launcher: srun, max_workers_per_block: 2}").engine
    assert isinstance(mpi, GlobusMPIEngine)
    assert mpi.executor_options == {"mpi_launcher": "srun", "max_workers_per_block": 2}


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("engine:\n  type: ThredPool", Code.ENGINE_UNKNOWN, "line 2: engine.type: 'ThredPool' is not an engine"),
        (
            "engine:\n  type: ThreadPoolEngine\n  max_worker: 3",
            Code.CONFIG_UNKNOWN_KEY,
            "Did you mean 'max_workers'?",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  max_worker_per_node: 3",
            Code.CONFIG_UNKNOWN_KEY,
            "rendered line 3: engine.max_worker_per_node: no such option of GlobusComputeEngine. "
            "Did you mean 'max_workers_per_node'?",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  mpi_launcher: srun",
            Code.CONFIG_UNKNOWN_KEY,
            "no such option of GlobusComputeEngine",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: SlurmProvider\n    acount: x",
            Code.CONFIG_UNKNOWN_KEY,
            "line 5: engine.provider.acount: no such option of SlurmProvider. Did you mean 'account'?",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: Slurm",
            Code.ENGINE_UNKNOWN,
            "line 4: engine.provider.type: 'Slurm' is not a provider. Known, nearest first: SlurmProvider",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: LocalProvider\n    launcher: {type: X}",
            Code.ENGINE_UNKNOWN,
            "line 5: engine.provider.launcher.type: 'X' is not a launcher",
        ),
        (
            "engine:\n  type: GlobusComputeEngine\n  container_uri: x\n  provider: {type: KubernetesProvider}",
            Code.CONFIG_INVALID,
            "line 3: engine.container_uri: cannot be combined with KubernetesProvider",
        ),
        ("engine: ThreadPoolEngine", Code.CONFIG_INVALID, "wanted `type: NAME` and its options"),
        ("idle_heartbeats_soft: 3", Code.CONFIG_INVALID, "rendered: engine: this key is required and missing"),
        (
            "engine: {type: ThreadPoolEngine}\nidle_heartbeat_soft: 3",
            Code.CONFIG_UNKNOWN_KEY,
            "line 2: idle_heartbeat_soft: no such key. Did you mean 'idle_heartbeats_soft'?",
        ),
        (
            "engine: {type: ThreadPoolEngine}\nhigh_assurance: true",
            Code.CONFIG_INVALID,
            "only config.yaml may set this",
        ),
        ("", Code.CONFIG_INVALID, "with at least an engine"),
    ],
)
def test_a_fault_names_line_key_and_the_known_ones(text: str, code: Code, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(text)
    assert caught.value.code is code
    assert says in caught.value.user_text


def test_stock_keys_are_accepted() -> None:
    config = load(
        "engine: {type: ThreadPoolEngine}\nheartbeat_period: 2\nidle_heartbeats_soft: -3\n"
        "idle_heartbeats_hard: 9\nheartbeat_threshold: 60\n"
        "endpoint_setup: echo a\nendpoint_teardown: echo b\npaths: {endpoint_dir: /x}\n"
        "display_name: None\ndebug: true\nenvironment: local\n"
    )
    assert (config.idle_heartbeats_soft, config.heartbeat_period, config.display_name) == (0, 5.0, None)
    assert [key for key, _ in ignored_settings(config)] == ["environment", "paths"]


def _names(function: object) -> set[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {p.name for p in parameters if p.name != "self" and p.kind not in kinds}


#: Options that take Python objects, or that our own settings give.
_OURS = {
    "block_error_handler",
    "encrypted",
    "label",
    "provider",
    "remote_monitoring_radio",
    "storage_access",
    "working_dir",
}


def test_the_table_of_parsls_options_is_the_installed_parsls() -> None:
    """Parsl is imported here only; a newer release that renames an option turns this red."""
    pytest.importorskip("parsl")
    import parsl.addresses
    import parsl.launchers
    import parsl.providers
    from parsl.executors import HighThroughputExecutor, MPIExecutor
    from parsl.jobs.job_status_poller import JobStatusPoller

    assert _names(HighThroughputExecutor) - _OURS == parsl_names.HIGH_THROUGHPUT
    assert _names(MPIExecutor) - _OURS == parsl_names.MPI
    assert _names(JobStatusPoller) == parsl_names.JOB_STATUS
    for table, module in ((parsl_names.PROVIDERS, parsl.providers), (parsl_names.LAUNCHERS, parsl.launchers)):
        assert set(table) == set(module.__all__)
        for name, options in table.items():
            assert _names(getattr(module, name)) == options, name
    for name, options in parsl_names.ADDRESSES.items():
        assert _names(getattr(parsl.addresses, name)) == options, name
