"""What `ps` shows of a user endpoint."""

from __future__ import annotations

import setproctitle

from mep.wire.launch import Launch


def show_title(launch: Launch, state: str = "") -> None:
    """Show role, endpoint, user, and `state` in brackets."""
    text = f"mep user-endpoint {launch.endpoint_name} {launch.user_name}"
    setproctitle.setproctitle(f"{text} [{state}]" if state else text)
