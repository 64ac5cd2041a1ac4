"""Engine settings of a user endpoint, by the stock names: data only; the engines room builds from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mep.base.codes import Code
from mep.config import parsl_names as parsl
from mep.config.kinds import Names
from mep.config.parsing import ConfigFault, Settings, nearest, setting, shorten

Options = dict[str, Any]
_Count = Annotated[int, Field(ge=1)]


def without_nulls(value: Any) -> Any:
    """Drop keys whose value is null, at any depth: in an engine it means "not set", as in the stock one."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def typed(value: Any, what: str, known: Mapping[str, frozenset[str]], path: tuple[str, ...] = ()) -> Options:
    """Check a `{type: X, option: ...}` mapping against the known types and options; return it."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ConfigFault(f"found {shorten(value)}, wanted `type: NAME` and its options.", path=path)
    kind = value["type"]
    if kind not in known:
        raise ConfigFault(
            f"{kind[:80]!r} is not a {what}. {nearest(kind, known, shown=20)}.",
            code=Code.ENGINE_UNKNOWN,
            path=(*path, "type"),
        )
    for option in value:
        if option != "type" and option not in known[kind]:
            raise ConfigFault(
                f"no such option of {kind}. {nearest(option, known[kind])}.",
                code=Code.CONFIG_UNKNOWN_KEY,
                path=(*path, option),
            )
    return value


class EngineConfig(Settings):
    """What every engine takes."""

    label: str | None = setting(None, "Names the engine in logs and batch jobs.")
    max_retries_on_system_failure: int = setting(
        0, "How often a task is run again after a worker or node was lost.", ge=0
    )
    working_dir: str = setting(
        "tasks_working_dir", "Where tasks start; relative paths start in the user endpoint's folder.", min_length=1
    )
    allowed_serializers: Names | None = setting(
        None, "Accept only tasks packed by these strategies (import paths, or globus_compute_sdk.*Code and *Data)."
    )


class ThreadPoolEngine(EngineConfig):
    """Threads inside the user endpoint: the fastest start, no isolation between tasks."""

    type: Literal["ThreadPoolEngine"] = Field(description="The engine's name.")
    max_workers: _Count | None = setting(None, "Tasks at once. Not set: CPUs + 4, at most 32.")
    thread_name_prefix: str = setting("", "Starts the names of the threads.")


class ProcessPoolEngine(EngineConfig):
    """Processes on this host: a task's crash is its own."""

    type: Literal["ProcessPoolEngine"] = Field(description="The engine's name.")
    max_workers: _Count | None = setting(None, "Tasks at once. Not set: the number of CPUs.")
    max_tasks_per_child: _Count | None = setting(None, "Replace a worker after so many tasks.")


class ParslEngine(EngineConfig):
    """What the engines on Parsl have in common. Options of Parsl's executor are in `executor_options`."""

    model_config = ConfigDict(extra="allow")

    container_type: Literal["docker", "podman", "podman-hpc", "apptainer", "singularity", "custom"] | None = (
        setting(None, "Run workers in containers of this kind.")
    )
    container_uri: str | None = setting(None, "The container image.")
    container_cmd_options: str | None = setting(None, "Options for the container command.")
    encrypted: bool = setting(
        default=True,
        description="Encrypt the traffic between the workers and the endpoint. Without it, whoever reaches "
        "their ports can run code as the user.",
    )
    strategy: str | Options | None = setting(None, "How blocks are scaled. Older spelling of job_status_kwargs.")
    job_status_kwargs: Options = setting(dict, "Scaling: strategy, strategy_period and max_idletime.")
    run_in_sandbox: bool = setting(default=False, description="Run each task in a folder of its own.")
    address: str | Options | None = setting(None, "Where workers reach the endpoint, or how to find that out.")
    provider: Options = setting(
        lambda: {"type": "LocalProvider"}, "Where workers run: {type: SlurmProvider, ...}."
    )

    @property
    def executor_options(self) -> Options:
        """The options that go to Parsl's executor as they are."""
        return dict(self.model_extra or {})

    @field_validator("provider", mode="before")
    @classmethod
    def _known_provider(cls, value: Any) -> Options:
        provider = typed(value, "provider", parsl.PROVIDERS)
        if "launcher" in provider:
            typed(provider["launcher"], "launcher", parsl.LAUNCHERS, ("launcher",))
        return provider

    @field_validator("address", mode="before")
    @classmethod
    def _known_address(cls, value: Any) -> Any:
        return value if isinstance(value, str) else typed(value, "way to find an address", parsl.ADDRESSES)

    @field_validator("strategy", mode="before")
    @classmethod
    def _known_strategy(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in parsl.STRATEGIES:
            raise ConfigFault(f"{value[:80]!r} is not a strategy. {nearest(value, parsl.STRATEGIES)}.")
        return value

    @field_validator("job_status_kwargs", mode="before")
    @classmethod
    def _known_job_status(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in parsl.JOB_STATUS:
                raise ConfigFault(
                    f"no such key. {nearest(key, parsl.JOB_STATUS)}.", code=Code.CONFIG_UNKNOWN_KEY, path=(key,)
                )
        return value

    @model_validator(mode="after")
    def _settled(self) -> ParslEngine:
        known = _executor_names(self)
        for option in self.model_extra or {}:
            if option not in known:
                own = known | set(type(self).model_fields)
                raise ConfigFault(
                    f"no such option of {type(self).__name__}. {nearest(option, own)}.",
                    code=Code.CONFIG_UNKNOWN_KEY,
                    path=(option,),
                )
        if self.container_uri and self.provider.get("type") in parsl.CONTAINER_PROVIDERS:
            raise ConfigFault(
                f"cannot be combined with {self.provider['type']}, which runs containers itself.",
                path=("container_uri",),
            )
        return self


class GlobusComputeEngine(ParslEngine):
    """Workers in batch jobs, on this host or in a cloud, by Parsl's HighThroughputExecutor."""

    type: Literal["GlobusComputeEngine"] = Field(description="The engine's name.")


class GlobusMPIEngine(ParslEngine):
    """MPI programs inside batch jobs, by Parsl's MPIExecutor."""

    type: Literal["GlobusMPIEngine"] = Field(description="The engine's name.")


def _executor_names(engine: ParslEngine) -> frozenset[str]:
    return parsl.MPI if isinstance(engine, GlobusMPIEngine) else parsl.HIGH_THROUGHPUT


AnyEngine = ThreadPoolEngine | ProcessPoolEngine | GlobusComputeEngine | GlobusMPIEngine
_BY_TYPE: Final[dict[str, type[AnyEngine]]] = {
    "ThreadPoolEngine": ThreadPoolEngine,
    "ProcessPoolEngine": ProcessPoolEngine,
    "GlobusComputeEngine": GlobusComputeEngine,
    "GlobusMPIEngine": GlobusMPIEngine,
}


def _known_engine(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ConfigFault("wanted `type: NAME` and its options. Known types: " + ", ".join(_BY_TYPE) + ".")
    if value["type"] not in _BY_TYPE:
        raise ConfigFault(
            f"{value['type'][:80]!r} is not an engine. {nearest(value['type'], _BY_TYPE)}.",
            code=Code.ENGINE_UNKNOWN,
            path=("type",),
        )
    return without_nulls(value)


Engine = Annotated[
    Annotated[AnyEngine, Field(discriminator="type")],
    BeforeValidator(_known_engine),
]
