"""What a user endpoint is told at its birth: handed from the monitor's child to the endpoint's boot, by a fork.

Nothing of it crosses a network or a privilege by itself: with `spawn: fork` it is an object in memory, with
`spawn: exec` its JSON travels in a memfd beside the payload. It holds no secret.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mep.wire.limits import HEARTBEAT_PERIOD_S


class Launch(Struct, frozen=True, kw_only=True):
    """Everything a user endpoint needs besides the payload, which `payload_fd` carries.

    `payload_fd`: the start command's body, as the gate received it; `payload_sha256` its hex digest.
    `monitor_fd`: SOCK_SEQPACKET, speaks `privsep.ChildToMonitor` / `MonitorToChild`; -1 where there is none.
    `template` is text, `template_source` its label in messages, `template_includes` what it may include, by name;
    `schema` is None where there is none.
    `endpoint_config`: plain data, the template's `parent_config`.
    `state_dir`: "" means ~/.local/state/mep/<uep id>.
    `mapped`: the endpoint maps identities (then the two globus_* facts go into the reports).
    `limits`: what config.yaml set, for messages. `controllers`: the limits that cgroups enforce here.
    `limit_met`: which limit ended the user endpoint before this one, for the users of the tasks that ran in it.
    `task_events`: the monitor wants to know of each task.
    """

    endpoint_id: str
    endpoint_name: str
    uep_id: str
    request_id: str
    payload_fd: int
    payload_sha256: str
    monitor_fd: int
    template: str
    template_source: str
    schema: dict[str, Any] | None
    template_includes: dict[str, str] = msgspec.field(default_factory=dict)
    endpoint_config: dict[str, Any]
    user_name: str
    uid: int
    gid: int
    home: str
    mapped: bool = False
    matched_identity: str = ""
    candidate_identities: list[str] = msgspec.field(default_factory=list)
    allowed_functions: tuple[str, ...] | None = None
    heartbeat_period_s: float = HEARTBEAT_PERIOD_S
    high_assurance: bool = False
    state_dir: str = ""
    limits: dict[str, Any] = msgspec.field(default_factory=dict)
    limit_met: str = ""
    task_events: bool = False
    controllers: list[str] = msgspec.field(default_factory=list)


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Launch).decode
