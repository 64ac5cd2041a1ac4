"""config.yaml: the endpoint's own settings."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.kinds import HttpUrl, Limits, Names, Pam, Port, Uuid
from mep.config.parsing import ConfigFault, Settings, build, setting
from mep.config.yamltext import Located, load_yaml
from mep.wire.limits import HEARTBEAT_PERIOD_MIN_S, HEARTBEAT_PERIOD_S

LOCAL_RELAY: Final = "http://localhost:5000"
_HOSTED: Final = "belongs to the hosted service's own environments; set `relay` instead"
_Count = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0, le=3600)]


class EndpointConfig(Settings):
    """Settings of one endpoint. Every key of the stock manager configuration is accepted too."""

    # -- who and where
    relay: HttpUrl | None = setting(
        None,
        "The relay's address. MEP_RELAY_URL is used where this is not set.",
        section="The relay",
        example="https://relay.site.example",
    )
    display_name: str | None = setting(
        None, "The name users see; the endpoint's own name where not set.", max_length=128
    )
    public: bool = setting(
        default=False, description="Show the endpoint to all users of the relay. Who may use it is another matter."
    )
    authentication_policy: Uuid | None = setting(None, "The service's authentication policy that users must meet.")
    subscription_id: Uuid | None = setting(None, "The subscription this endpoint belongs to (hosted service).")
    admins: tuple[Uuid, ...] = setting((), "Identity ids that may administer the endpoint at the relay.")
    email: str | None = setting(None, "Where users reach the administrators.", example="hpc-help@site.example")
    high_assurance: bool = setting(
        default=False,
        description="Results are fetched over HTTPS, not pushed: no queue of a submitter holds any of them.",
    )
    amqp_port: Port | None = setting(None, "Use this broker port instead of the one the relay names.")
    require_signed_commands: bool | None = setting(
        None,
        "Obey only start commands that the relay has signed. Not set: required where the relay offers a key. "
        "Set it to false only for a service that cannot sign.",
    )
    heartbeat_period: float = setting(
        HEARTBEAT_PERIOD_S, f"Seconds between signs of life; at least {HEARTBEAT_PERIOD_MIN_S:g}.", gt=0, le=3600
    )
    heartbeat_threshold: float = setting(
        120.0, "Seconds of silence after which a connection counts as broken; at least two periods.", gt=0
    )

    # -- files
    identity_mapping_config_path: str | None = setting(
        None,
        "The identity mapping. Relative paths start in this folder. Default: identity_mapping.json.",
        section="Files",
    )
    user_config_template_path: str | None = setting(
        None, "The template of user endpoints. Default: user_config_template.yaml.j2."
    )
    user_config_schema_path: str | None = setting(
        None, "The JSON schema of what users may ask for. Default: user_config_schema.json."
    )
    user_environment_path: str | None = setting(
        None, "Environment variables for user endpoints. Default: user_environment.yaml."
    )
    audit_log_path: str | None = setting(None, "The audit log. Default: audit.log in the state folder.")

    # -- who may
    allowed_functions: tuple[Uuid, ...] | None = setting(
        None,
        "Only these functions may be run; an empty list forbids all. Not set: any.",
        section="Who may, and how many",
    )
    min_uid: int = setting(1000, "Never become an account with a lower uid. uid 0 is always refused.", ge=1)
    denied_users: Names = setting(
        ("nobody",), "Accounts that are refused: names or uids. *, ? and [...] stand for parts of names."
    )
    denied_groups: Names = setting(("root",), "Accounts in one of these groups are refused.")
    allowed_users: Names | None = setting(
        None, "If set, only these accounts, and those in allowed_groups, are served."
    )
    allowed_groups: Names | None = setting(
        None, "If set, only members of these groups, and allowed_users, are served."
    )
    max_user_endpoints: _Count | None = setting(1000, "User endpoints at once. null: no limit.")
    max_user_endpoints_per_user: _Count | None = setting(
        100, "User endpoints of one account at once. null: no limit."
    )
    start_rate_per_user: _Count | None = setting(120, "Starts per minute for one account. null: no limit.")

    # -- how user endpoints are started
    gate_user: str = setting(
        "mep",
        "The account of the endpoint's network process, when root starts the endpoint.",
        section="How they run",
    )
    pam: Pam = setting(lambda: Pam(enable=False), "PAM for user endpoints; off where this section is missing.")
    limits: Limits = setting(Limits, "What one user endpoint may use; a template may lower it. Not set: no limit.")
    spawn: Literal["fork", "exec"] = setting(
        "fork", "fork: milliseconds to start. exec: a fresh interpreter for each user endpoint."
    )
    mapping_timeout_s: _Seconds = setting(5.0, "Time for a mapping program and for the name service.")
    start_timeout_s: _Seconds = setting(60.0, "Time for a user endpoint from request to ready.")
    debug: bool = setting(default=False, description="Log more.")

    # -- stock settings without effect here
    mu_child_ep_grace_period_s: float = setting(
        30.0,
        "Stock setting.",
        section="Stock settings",
        ignored="a start request that arrives while a user endpoint ends is kept until it has ended",
    )
    environment: str | None = setting(None, "Stock setting; `local` means the relay at http://localhost:5000.")
    local_compute_services: bool = setting(
        default=False, description="Stock setting; true means the relay at http://localhost:5000."
    )
    multi_user: bool | None = setting(
        None, "Stock setting.", ignored="an endpoint that root starts serves many users, any other its owner only"
    )
    detach_endpoint: bool | None = setting(None, "Stock setting.", ignored="use `mep start NAME --detach`")
    log_dir: str | None = setting(None, "Stock setting.", ignored="the log goes to the journal, or to stderr")
    stdout: str | None = setting(None, "Stock setting.", ignored="the log goes to the journal, or to stderr")
    stderr: str | None = setting(None, "Stock setting.", ignored="the log goes to the journal, or to stderr")
    funcx_service_address: str | None = setting(None, "Stock setting.", ignored=_HOSTED)
    force_mu_allow_same_user: bool = setting(default=False, description="Stock setting; refused if true.")

    @field_validator("display_name")
    @classmethod
    def _no_name(cls, value: str | None) -> str | None:
        # Stock folders of 2023 hold the text "None".
        return None if value == "None" else value

    @field_validator("heartbeat_period")
    @classmethod
    def _not_below_minimum(cls, value: float) -> float:
        return max(value, HEARTBEAT_PERIOD_MIN_S)  # as the stock endpoint

    @field_validator("pam", "limits", mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("force_mu_allow_same_user")
    @classmethod
    def _never_same_user(cls, value: bool) -> bool:  # noqa: FBT001 - a validator's signature
        if value:
            raise ConfigFault("refused: it would let users become the account that runs the endpoint.")
        return value

    @model_validator(mode="before")
    @classmethod
    def _no_engine(cls, data: Any) -> Any:
        if isinstance(data, dict) and "engine" in data:
            raise ConfigFault(
                "an engine belongs in user_config_template.yaml.j2: every endpoint starts user endpoints.",
                path=("engine",),
            )
        return data

    @property
    def relay_in_file(self) -> str | None:
        """The relay that this file names, in our words or in the stock ones."""
        if self.relay is None and (self.local_compute_services or self.environment == "local"):
            return LOCAL_RELAY
        return self.relay

    def relay_url(self, from_environment: str | None = None) -> str:
        """Return the relay's address: from the file, else `from_environment` (MEP_RELAY_URL).

        InputError(CONFIG_INVALID) where neither names one, or the environment's is not an address.
        """
        if self.relay_in_file:
            return self.relay_in_file
        if not from_environment:
            raise InputError(
                Code.CONFIG_INVALID, "No relay is named: set `relay` in config.yaml, or MEP_RELAY_URL.", step=""
            )
        named = build(EndpointConfig, Located({"relay": from_environment}), source="MEP_RELAY_URL")
        return str(named.relay)


#: Settings that are in force as soon as config.yaml changes: who may, and how many. The others wait for a start.
LIVE_SETTINGS: Final = (
    "allowed_functions",
    "min_uid",
    "denied_users",
    "denied_groups",
    "allowed_users",
    "allowed_groups",
    "max_user_endpoints",
    "max_user_endpoints_per_user",
    "start_rate_per_user",
)


def load_endpoint_config(text: str, *, source: str) -> EndpointConfig:
    """Return the settings in config.yaml's `text`; `source` names the file in messages.

    InputError(CONFIG_INVALID | CONFIG_UNKNOWN_KEY) names file, line, key, what was found and what was wanted.
    """
    located = load_yaml(text, source=source)
    if located.data is None:  # an empty file is the stock way to say "all defaults"
        located = Located({})
    if not isinstance(located.data, dict):
        raise InputError(Code.CONFIG_INVALID, f"{source}: wanted `key: value` lines, found something else.")
    return build(EndpointConfig, located, source=source)
