"""The option names that Parsl's classes take, as data: naming them must not cost an import of Parsl.

A test compares this table with the installed Parsl. Options that take Python objects (storage_access, ...) are
left out: a configuration file cannot hold them.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EXECUTOR = _words(
    "address address_probe_timeout drain_period heartbeat_period heartbeat_threshold interchange_launch_cmd "
    "interchange_port_range launch_cmd loopback_address poll_period prefetch_capacity worker_debug "
    "worker_logdir_root worker_port worker_port_range"
)
HIGH_THROUGHPUT: Final = _EXECUTOR | _words(
    "available_accelerators cores_per_worker cpu_affinity max_workers_per_node mem_per_worker manager_selector"
)
MPI: Final = _EXECUTOR | _words("max_workers_per_block mpi_launcher")

_BLOCKS = _words("init_blocks max_blocks min_blocks parallelism")
_NODES = _BLOCKS | _words("nodes_per_block worker_init")
_BATCH = _NODES | _words("cmd_timeout launcher scheduler_options walltime")
_CLOUD = _BLOCKS | _words("launcher")

PROVIDERS: Final[dict[str, frozenset[str]]] = {
    "LocalProvider": _NODES | _words("cmd_timeout launcher"),
    "SlurmProvider": _BATCH
    | _words(
        "account clusters constraint cores_per_node exclusive gpus_per_node gres mem_per_node partition qos "
        "regex_job_id status_batch_size"
    ),
    "PBSProProvider": _BATCH | _words("account cpus_per_node queue select_options"),
    "TorqueProvider": _BATCH | _words("account queue"),
    "LSFProvider": _BATCH
    | _words("bsub_redirection cores_per_block cores_per_node project queue request_by_nodes"),
    "GridEngineProvider": _BATCH | _words("queue"),
    "CondorProvider": _BATCH
    | _words("cmd_chunk_size cores_per_slot environment mem_per_slot project requirements transfer_input_files"),
    "KubernetesProvider": _NODES
    | _words(
        "annotations extra_limits extra_requests group_id image init_cpu init_mem max_cpu max_mem namespace "
        "persistent_volumes pod_name run_as_non_root secret service_account_name user_id"
    ),
    "AWSProvider": _NODES
    | _words(
        "iam_instance_profile_arn image_id instance_type key_file key_name launcher linger profile region "
        "spot_max_bid state_file walltime"
    ),
    "GoogleCloudProvider": _CLOUD
    | _words("google_version instance_type key_file os_family os_project project_id region"),
    "AzureProvider": _CLOUD
    | _words("group_name key_file key_name linger location vm_reference vnet_name worker_init"),
}
#: They run containers themselves, so an engine's container options cannot be combined with them.
CONTAINER_PROVIDERS: Final = _words("AWSProvider GoogleCloudProvider KubernetesProvider")

LAUNCHERS: Final[dict[str, frozenset[str]]] = {
    "SimpleLauncher": _words("debug"),
    "SingleNodeLauncher": _words("debug fail_on_any"),
    "WrappedLauncher": _words("debug prepend"),
    "SrunLauncher": _words("debug overrides"),
    "SrunMPILauncher": _words("debug overrides"),
    "AprunLauncher": _words("debug overrides"),
    "JsrunLauncher": _words("debug overrides"),
    "MpiExecLauncher": _words("bind_cmd debug overrides"),
    "MpiRunLauncher": _words("bash_location debug overrides"),
    "GnuParallelLauncher": _words("debug"),
}
ADDRESSES: Final[dict[str, frozenset[str]]] = {
    "address_by_hostname": frozenset(),
    "address_by_interface": _words("ifname"),
    "address_by_query": _words("timeout"),
    "address_by_route": frozenset(),
    "get_any_address": frozenset(),
}
STRATEGIES: Final = _words("none simple htex_auto_scale")
MANAGER_SELECTORS: Final[dict[str, frozenset[str]]] = {
    "RandomManagerSelector": frozenset(),
    "BlockIdManagerSelector": frozenset(),
}
JOB_STATUS: Final = _words("max_idletime strategy strategy_period")
