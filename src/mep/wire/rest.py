"""REST bodies that more than one side reads. Field names are the protocol's (protocol: endpoints, submit)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mep.base.secrets import Secret
from mep.wire.command import QueueInfo
from mep.wire.keys import PublicKey

#: Ours: with "1" an endpoint that registers, or an SDK, says that it can seal and open (see `seal`).
HEADER_SEALS: Final = "mep-seals"


class RegistrationMetadata(Struct, frozen=True, kw_only=True):
    """What an endpoint tells about itself. The two texts are raw; the schema is an object."""

    endpoint_version: str
    python_version: str
    hostname: str
    local_user: str
    endpoint_config: str = ""
    user_config_template: str = ""
    user_config_schema: dict[str, Any] = msgspec.field(default_factory=dict)


class RegistrationRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST /v3/endpoints and PUT /v3/endpoints/{id}. `multi_user` is sent only when it is true."""

    endpoint_name: str
    metadata: RegistrationMetadata
    public: bool
    high_assurance: bool
    multi_user: bool = False
    display_name: str | None = None
    allowed_functions: list[str] | None = None
    authentication_policy: str | None = None
    subscription_uuid: str | None = None
    admins: list[str] | None = None


class RegistrationAnswer(Struct, frozen=True, kw_only=True):
    """`mep` is ours: a relay that signs start commands announces its keys there."""

    endpoint_id: str
    command_queue_info: QueueInfo
    heartbeat_queue_info: QueueInfo
    warnings: list[str] = msgspec.field(default_factory=list)
    mep: RelayAnnouncement | None = None


class RelayAnnouncement(Struct, frozen=True, kw_only=True):
    """What our relay offers beyond the stock protocol. `seal_key`: for those who can seal."""

    version: str
    keys: list[PublicKey]
    seal_key: Secret | UnsetType = UNSET


class SubmitAnswer(Struct, frozen=True, kw_only=True):
    """Ids in the order of the payloads, under each function id."""

    tasks: dict[str, list[str]]
    task_group_id: str
    request_id: str
    endpoint_id: str


class ErrorBody(Struct, frozen=True, kw_only=True):
    """Every answer >= 400 (protocol: errors). Clients show `detail`; `reason` is the old name of the same."""

    code: str
    detail: str
    http_status_code: int
    status: str = "Failed"
    reason: str = ""
    error_args: list[Any] = msgspec.field(default_factory=list)
