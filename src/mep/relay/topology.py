"""Names on the broker, and who may touch which: the one place where they are spelled.

    exchange (topic)   routing key         queue (durable, classic)
    commands           <id>.commands       <endpoint id>.commands
    tasks              <id>.tasks          <uep id>.tasks
    results            <id>.results        results           (all of them; the relay reads it)
    heartbeats         <id>.heartbeats     heartbeats        (the same)
    (default)                              tg.<identity id>.<task group id>

Classic queues, not quorum queues: a quorum queue declared within a second before a crash comes back empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

COMMANDS: Final = "commands"
TASKS: Final = "tasks"
RESULTS: Final = "results"
HEARTBEATS: Final = "heartbeats"
EXCHANGES: Final = (COMMANDS, TASKS, RESULTS, HEARTBEATS)

RESULTS_QUEUE: Final = "results"
HEARTBEATS_QUEUE: Final = "heartbeats"
REJECTED_QUEUE: Final = "rejected"  # what the relay could not use, for an administrator to look at

NOTHING: Final = "^$"

_REJECTED_MOST = 10_000


# A queue that nobody has consumed or declared for so long is deleted by the broker: 60 KB of its memory each.
_DAY_MS = 86_400_000
_GROUP_EXPIRES_MS = 7 * _DAY_MS  # every run of a user's program has one; its results are kept by the relay, too
_TASKS_EXPIRE_MS = 30 * _DAY_MS  # longer than a task waits for its endpoint


def queue_arguments(queue: str) -> dict[str, str | int]:
    """Return the arguments with which the queue is declared, from its name. They must not change: the broker
    refuses to declare an existing queue with others."""
    arguments: dict[str, str | int] = {"x-queue-type": "classic"}
    if queue.endswith(f".{TASKS}"):
        arguments["x-expires"] = _TASKS_EXPIRE_MS
    elif queue.startswith("tg."):
        arguments["x-expires"] = _GROUP_EXPIRES_MS
    elif queue in (RESULTS_QUEUE, HEARTBEATS_QUEUE):
        arguments["x-dead-letter-exchange"] = ""
        arguments["x-dead-letter-routing-key"] = REJECTED_QUEUE
    elif queue == REJECTED_QUEUE:
        arguments["x-max-length"] = _REJECTED_MOST
    return arguments


def routing_key(sender_or_receiver: str, exchange: str) -> str:
    """Return the routing key of one endpoint or user endpoint on `exchange`."""
    return f"{sender_or_receiver}.{exchange}"


def id_of(key: str) -> str:
    """Return the id in a routing key."""
    return key.rpartition(".")[0]


def command_queue(endpoint_id: str) -> str:
    return f"{endpoint_id}.{COMMANDS}"


def task_queue(uep_id: str) -> str:
    return f"{uep_id}.{TASKS}"


def group_prefix(identity_id: str) -> str:
    """Return what an SDK user's task-group queues begin with (the `queue_prefix` that clients are told)."""
    return f"tg.{identity_id}."


def group_queue(identity_id: str, group_id: str) -> str:
    return group_prefix(identity_id) + group_id


@dataclass(frozen=True)
class Grants:
    """What a broker user may do: regular expressions over names, `topics` by exchange over routing keys.

    Nobody may configure (declare, delete, bind new) anything. A passive declare needs no permission.
    """

    user: str
    read: str = NOTHING
    write: str = NOTHING
    topics: dict[str, str] = field(default_factory=dict)
    configure: str = NOTHING


def _only(*names: str) -> str:
    return f"^({'|'.join(re.escape(name) for name in names)})$"


def endpoint_grants(endpoint_id: str) -> Grants:
    """A core endpoint: read its commands, publish its own status reports."""
    return Grants(
        user=f"ep.{endpoint_id}",
        read=_only(command_queue(endpoint_id)),
        write=_only(HEARTBEATS),
        topics={HEARTBEATS: _only(routing_key(endpoint_id, HEARTBEATS))},
    )


def single_user_grants(endpoint_id: str) -> Grants:
    """An endpoint before 4.0 takes tasks itself; one before 3.1 reports with its results. Both in one account."""
    return Grants(
        user=f"ep.{endpoint_id}",
        read=_only(command_queue(endpoint_id), task_queue(endpoint_id)),
        write=_only(RESULTS, HEARTBEATS),
        topics={exchange: _only(routing_key(endpoint_id, exchange)) for exchange in (RESULTS, HEARTBEATS)},
    )


def uep_grants(uep_id: str) -> Grants:
    """A user endpoint: read its tasks, publish its own results and status reports."""
    return Grants(
        user=f"uep.{uep_id}",
        read=_only(task_queue(uep_id)),
        write=_only(RESULTS, HEARTBEATS),
        topics={exchange: _only(routing_key(uep_id, exchange)) for exchange in (RESULTS, HEARTBEATS)},
    )


def sdk_grants(identity_id: str) -> Grants:
    """A person or program that submits: read the results of its own task groups."""
    return Grants(user=f"sdk.{identity_id}", read=f"^{re.escape(group_prefix(identity_id))}[0-9a-f-]+$")
