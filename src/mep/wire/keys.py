"""The public half of what a relay signs with, apart from the code that verifies (and needs a crypto library)."""

from __future__ import annotations

from msgspec import Struct


class PublicKey(Struct, frozen=True, kw_only=True):
    """A relay's verification key, as announced at registration and pinned by the monitor."""

    kid: str
    x: str  # raw Ed25519 public key, hex
