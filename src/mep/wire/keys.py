"""The public half of what a relay signs with, apart from the code that verifies (and needs a crypto library)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class PublicKey(Struct, frozen=True, kw_only=True):
    """A relay's verification key, as announced at registration and pinned by the monitor.

    `vouch`: the previous key's signature of this one, hex: who pinned that one may believe this one.
    """

    kid: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[!-~]*\Z")]
    x: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]  # raw Ed25519 public key, hex
    vouch: Annotated[str, Meta(pattern=r"\A[0-9a-f]{0,128}\Z")] = ""
