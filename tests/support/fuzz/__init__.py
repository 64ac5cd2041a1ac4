"""What is fuzzed, and how: see CONTRIBUTING.md."""

from __future__ import annotations

from support.fuzz import daemon, files, relay, user, wire
from support.fuzz.core import Target, mutated

TARGETS: list[Target] = [*wire.TARGETS, *daemon.TARGETS, *files.TARGETS, *relay.TARGETS, *user.TARGETS]

__all__ = ["TARGETS", "Target", "mutated"]
