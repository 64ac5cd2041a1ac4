"""What the routes answer, for the OpenAPI document: every field, so that a client may rely on the list.

The routes build their answers by hand; that these are true is what the schema fuzz of `tests/integration` tests.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from mep.wire.keys import PublicKey

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Closed(Struct, forbid_unknown_fields=True):
    """An answer with these fields and no other."""


class FunctionAnswer(Closed):
    function_uuid: Uuid


class FunctionDocument(Closed):
    function_uuid: Uuid
    function_name: str
    function_code: str
    description: str
    metadata: dict[str, Any]
    public: bool
    owner: Uuid


class Deleted(Closed):
    """302: what the stock service says of a deletion."""

    result: Literal[302]


class Done(Closed):
    status: Literal["Success"]


class Caller(Closed):
    status: Literal["Success"]
    username: str
    identity_id: Uuid


class Versions(Closed):
    api: str
    min_ep_version: str
    min_sdk_version: str
    mep: bool


class Stats(Closed):
    total_function_invocations: int


class Health(Closed):
    status: Literal["ok", "unavailable"]
    reason: str | UnsetType = UNSET


class QueueDocument(Closed):
    """Where to take messages from, or to send them to. The URL holds a password."""

    connection_url: str
    exchange: str
    queue: str
    queue_publish_kwargs: dict[str, Any]


class Announcement(Closed):
    """`seal_key`: for an endpoint that said, by the header `mep-seals`, that it can use one."""

    version: str
    keys: list[PublicKey]
    seal_key: str | UnsetType = UNSET


class Registered(Closed):
    endpoint_id: Uuid
    command_queue_info: QueueDocument
    task_queue_info: QueueDocument
    result_queue_info: QueueDocument
    heartbeat_queue_info: QueueDocument
    warnings: list[str]
    mep: Announcement


class Listed(Closed):
    uuid: Uuid
    name: str
    display_name: str | None
    owner: Uuid


class EndpointDocument(Closed):
    """The last four are shown to those who may change it."""

    uuid: Uuid
    id: Uuid
    name: str
    display_name: str | None
    owner_id: Uuid
    owner: str | None
    public: bool
    multi_user: bool
    high_assurance: bool
    endpoint_version: str
    python_version: Any
    hostname: Any
    user_config_schema: dict[str, Any] | None
    restricted_functions: bool
    registered: str
    locked: bool
    metadata: dict[str, Any] | UnsetType = UNSET
    admins: list[str] | UnsetType = UNSET
    subscription_uuid: str | UnsetType | None = UNSET
    authentication_policy: str | UnsetType | None = UNSET


class Counts(Closed):
    total_workers: int | float
    idle_workers: int | float
    pending_tasks: int | float
    outstanding_tasks: int | float
    managers: int | float


class EndpointState(Closed):
    status: Literal["online", "offline"]
    details: Counts


class Locked(Closed):
    """`lock_expiration_timestamp` in Unix seconds; /v2 says it as a date."""

    endpoint_id: Uuid
    lock_expiration_timestamp: float


class LockedUntil(Closed):
    endpoint_id: Uuid
    lock_expiration_timestamp: str


class AllowedFunctions(Closed):
    endpoint_id: Uuid
    restricted: bool
    functions: list[str]


class Whitelist(Closed):
    status: Literal["Success"]
    result: list[str]


class Console(Closed):
    """A row has `user_endpoint_id` and what `include_fields` names; without that, everything."""

    endpoint_id: Uuid
    user_endpoints: list[dict[str, Any]]


class SubmitDone(Closed):
    """Ids in the order of the payloads, under each function id."""

    tasks: dict[str, list[Uuid]]
    task_group_id: Uuid
    request_id: Uuid
    endpoint_id: Uuid


class OldOutcome(Closed):
    """One task of /v2/submit. `code` and `reason` of one that was refused."""

    status: Literal["Success", "Failed"]
    task_uuid: Uuid
    http_status_code: int
    code: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class OldSubmitDone(Closed):
    response: Literal["batch"]
    task_group_id: str
    results: list[OldOutcome]


class TaskShown(Closed):
    """`result`: the packed value of a success. `exception`: the text of a failure."""

    task_id: str
    status: Literal["success", "failed", "running", "waiting-for-ep"]
    task_group_id: Uuid | UnsetType = UNSET
    result: str | UnsetType = UNSET
    exception: str | UnsetType = UNSET
    completion_t: str | UnsetType = UNSET
    details: dict[str, Any] | UnsetType = UNSET
    error_details: dict[str, Any] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    http_status_code: Literal[404] | UnsetType = UNSET


class Batch(Closed):
    """One document for each id that was asked for; `http_status_code` is 404 in those of unknown tasks."""

    response: Literal["batch"]
    results: dict[str, TaskShown]


class Member(Closed):
    id: Uuid
    created_at: str


class GroupDocument(Closed):
    taskgroup_id: Uuid
    create_websockets_queue: bool
    tasks: list[Member]


class ResultUrl(Closed):
    """`seal_key`: for an SDK that said, by the header `mep-seals`, that it can use one."""

    queue_prefix: str
    connection_url: str
    seal_key: str | UnsetType = UNSET


class Tokens(Struct):
    """RFC 6749, with one more token in `other_tokens` for each further resource server."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    resource_server: str
    scope: str
    refresh_token: str | None
    other_tokens: list[dict[str, Any]]


class Introspection(Struct):
    active: bool


class UserInfo(Closed):
    sub: Uuid
    preferred_username: str
    name: str
    email: str
    identity_set: list[dict[str, Any]]


class Identities(Closed):
    identities: list[dict[str, Any]]


class Failure(Struct):
    """Every refusal. `detail` says what happened and what to do; `reason` is the old name of the same."""

    code: str
    detail: str
    http_status_code: int
    status: Literal["Failed"]
    reason: str
    error_args: list[Any]
