"""What a user endpoint tells the relay about itself: status reports, built from plain values."""

from __future__ import annotations

import datetime
import os
import re
from typing import Any

from mep.wire import envelope
from mep.wire.launch import Launch
from mep.wire.limits import MAX_REPORT_BYTES

_SECRET_KEY = re.compile(
    r"(?i)((?:[\w-]*(?:password|passwd|secret|token|credential|api[_-]?key|private[_-]?key))[\w-]*['\"]?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s'\"#,}]+)"
)
_URL_PASSWORD = re.compile(r"(\w+://[^\s/:@]+:)[^\s/@]+@")


def process_facts(launch: Launch, config_text: str, *, started_at: float) -> dict[str, Any]:
    """Return the facts of this process and its configuration, by their stock names."""
    facts: dict[str, Any] = {
        "posix_ppid": os.getppid(),
        "posix_pid": os.getpid(),
        "posix_sid": os.getsid(0),
        "posix_uid": os.getuid(),
        "posix_gid": os.getgid(),
        "posix_groups": os.getgroups(),  # numbers: a name service may take seconds for the names
        "posix_username": launch.user_name,
        "config_raw": without_secrets(config_text),
        "start_iso": datetime.datetime.fromtimestamp(started_at, tz=datetime.UTC).astimezone().isoformat(),
        "start_unix": int(started_at),
    }
    if launch.mapped:
        facts["globus_candidate_identities"] = launch.candidate_identities
        facts["globus_matched_identity"] = launch.matched_identity
    return facts


def without_secrets(text: str) -> str:
    """Return `text` with the values of keys that sound like secrets, and passwords in URLs, replaced by `***`.

    The relay needs the configuration's text for people who look for a mistake, not for what opens doors.
    """
    return _URL_PASSWORD.sub(r"\1***@", _SECRET_KEY.sub(r"\1***", text))


def report(
    uep_id: str, facts: dict[str, Any], engine_facts: dict[str, Any], *, active: bool, period_s: float, **more: Any
) -> bytes:
    """Return a status report's envelope. What would make it too large is left out, `config_raw` first."""
    state = {**facts, **engine_facts, "heartbeat_period": period_s, "active": active, **more}
    for dropped in ("", "config_raw", "node_info"):
        state.pop(dropped, None)
        body = envelope.encode(envelope.StatusReport(endpoint_id=uep_id, global_state=state))
        if len(body) <= MAX_REPORT_BYTES:
            break
    return body
