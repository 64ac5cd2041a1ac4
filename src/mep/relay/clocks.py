"""ISO times where the protocol wants texts."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(unix_s: float) -> str:
    """Return `unix_s` as an ISO 8601 text in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat()
