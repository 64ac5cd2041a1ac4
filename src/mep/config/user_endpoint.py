"""The rendered template: settings of one user endpoint. Read after the drop, as the user."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.engines import Engine
from mep.config.kinds import Limits, Port, Uuid
from mep.config.parsing import ConfigFault, Settings, build, setting
from mep.config.yamltext import load_yaml
from mep.wire.limits import HEARTBEAT_PERIOD_MIN_S, HEARTBEAT_PERIOD_S

_MANAGERS = "belongs in config.yaml"


class UserEndpointConfig(Settings):
    """Settings of one user endpoint. Every key of the stock user endpoint's configuration is accepted too."""

    engine: Engine = Field(description="What runs the tasks: `type: ThreadPoolEngine` and its options.")
    display_name: str | None = setting(None, "A name for reports.", max_length=128)
    idle_heartbeats_soft: int = setting(
        0, "Stop after so many heartbeats without a task at hand. 0: never; then the hard limit is off, too."
    )
    idle_heartbeats_hard: int = setting(
        5760, "Stop after so many heartbeats in which no task or result moved, even if some are at hand."
    )
    heartbeat_period: float = setting(HEARTBEAT_PERIOD_S, "Seconds between signs of life.", gt=0, le=3600)
    heartbeat_threshold: float = setting(
        120.0, "Seconds of silence after which a connection counts as broken.", gt=0
    )
    endpoint_setup: str | None = setting(None, "Shell commands to run before the engine starts.")
    endpoint_teardown: str | None = setting(None, "Shell commands to run after the engine has ended.")
    allowed_functions: tuple[Uuid, ...] | None = setting(
        None, "Only these functions may be run. It can narrow what config.yaml allows, never widen it."
    )
    retry_lost_tasks: bool = setting(
        default=False,
        description="Run a task again that had started when its worker or the user endpoint died: three starts "
        "at most, and not after two kills for memory. Only where functions may run twice.",
    )
    limits: Limits = setting(Limits, "Lowers the limits of config.yaml.")
    amqp_port: Port | None = setting(None, "Use this broker port instead of the one the relay names.")
    debug: bool = setting(default=False, description="Log more.")

    # -- stock settings without effect here
    paths: dict[str, Any] | None = setting(
        None,
        "Stock setting.",
        section="Stock settings in a template",
        ignored="a user endpoint's folder is ~/.local/state/mep/ID",
    )
    environment: str | None = setting(None, "Stock setting.", ignored=_MANAGERS)
    local_compute_services: bool = setting(default=False, description="Stock setting.", ignored=_MANAGERS)
    authentication_policy: Uuid | None = setting(None, "Stock setting.", ignored=_MANAGERS)
    subscription_id: Uuid | None = setting(None, "Stock setting.", ignored=_MANAGERS)
    admins: tuple[Uuid, ...] | None = setting(None, "Stock setting.", ignored=_MANAGERS)
    detach_endpoint: bool | None = setting(None, "Stock setting.", ignored="the daemon holds its user endpoints")
    log_dir: str | None = setting(None, "Stock setting.", ignored="the log is in the user endpoint's folder")
    stdout: str | None = setting(None, "Stock setting.", ignored="the log is in the user endpoint's folder")
    stderr: str | None = setting(None, "Stock setting.", ignored="the log is in the user endpoint's folder")
    funcx_service_address: str | None = setting(None, "Stock setting.", ignored=_MANAGERS)

    @field_validator("display_name")
    @classmethod
    def _no_name(cls, value: str | None) -> str | None:
        return None if value == "None" else value

    @field_validator("heartbeat_period")
    @classmethod
    def _not_below_minimum(cls, value: float) -> float:
        return max(value, HEARTBEAT_PERIOD_MIN_S)  # as the stock endpoint

    @field_validator("idle_heartbeats_soft", "idle_heartbeats_hard")
    @classmethod
    def _not_negative(cls, value: int) -> int:
        return max(0, value)  # as the stock endpoint

    @field_validator("limits", mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return {} if value is None else value

    @model_validator(mode="before")
    @classmethod
    def _not_the_templates_to_say(cls, data: Any) -> Any:
        if isinstance(data, dict) and "high_assurance" in data:
            raise ConfigFault("only config.yaml may set this.", path=("high_assurance",))
        return data


def load_user_endpoint_config(text: str, *, source: str) -> UserEndpointConfig:
    """Return the settings in the rendered template `text`; `source` names it in messages.

    InputError(CONFIG_INVALID | CONFIG_UNKNOWN_KEY | ENGINE_UNKNOWN) names source, line, key, found and wanted.
    """
    located = load_yaml(text, source=source)
    if not isinstance(located.data, dict):
        raise InputError(Code.CONFIG_INVALID, f"{source}: wanted `key: value` lines with at least an engine.")
    return build(UserEndpointConfig, located, source=source)
