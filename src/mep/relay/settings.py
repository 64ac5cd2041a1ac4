"""What a relay can be told. Frozen; running state is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mep.base.secrets import Secret
from mep.wire.limits import MAX_SUBMIT_BYTES, MAX_TASK_BYTES

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Settings:
    """Times in seconds, sizes in bytes."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 5000
    broker_url: Secret = field(default_factory=lambda: Secret(""))  # empty: a private node
    broker_management_url: Secret = field(default_factory=lambda: Secret(""))
    broker_client_host: str = ""  # what clients are told instead of the broker URL's host[:port]
    database_url: Secret = field(default_factory=lambda: Secret(""))  # empty: SQLite in data_dir
    public_url: str = ""  # how clients reach us, where it differs from the request's host
    max_submit_bytes: int = MAX_SUBMIT_BYTES
    max_task_bytes: int = MAX_TASK_BYTES
    requests_per_s: float = 500.0  # per person, on average; 0 = no limit
    task_ttl_s: float = 14 * _DAY_S  # how long a task waits for an endpoint that is away
    result_ttl_s: float = 14 * _DAY_S  # how long a finished task can be fetched
    start_timeout_s: float = 60.0  # without a sign of life after a start command
    start_tries: int = 3  # start commands in a row without any progress
    missed_heartbeats: int = 3
    lock_s: float = 60.0
    repeat_window_s: float = 600.0  # how long a repeat can join an attempt that was not answered
    idempotency_ttl_s: float = _DAY_S
    publish_patience_s: float = 10.0  # how long a submit waits for the broker before it relies on the outbox
