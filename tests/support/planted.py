"""Secrets of a test's endpoint, as its relay derives them, and the search for them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from mep.relay.auth.keys import Keys
from mep.relay.seals import Seals
from support.endpoint import Endpoint

_LARGEST_BYTES = 100_000_000


def broker_passwords(site: Endpoint, ids: list[str]) -> list[str]:
    """Return what the relay derives for these accounts, of any generation so far."""
    secret = (site.relay.data_dir / "keys" / "broker-secret").read_bytes().strip()
    names = [
        f"{kind}.{one}:{generation}" for one in ids for kind in ("ep", "uep", "sdk") for generation in range(4)
    ]
    return [hmac.new(secret, name.encode(), hashlib.sha256).hexdigest() for name in names]


def seal_keys(site: Endpoint, ids: list[str]) -> list[str]:
    """Return what the relay derives for these to seal with."""
    seals = Seals(Keys(site.relay.data_dir).broker_secret)
    kinds = (seals.endpoint_key, seals.uep_key, lambda one, _seals: seals.sdk_key(one))
    return [key(one, 1).reveal() for one in ids for key in kinds]


def files_below(*folders: Path, but: tuple[Path, ...] = ()) -> dict[str, str]:
    """Return the content of each file below the folders, by its path; nothing below those of `but`."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if any(path.is_relative_to(other) for other in but) or path.is_symlink() or not path.is_file():
                continue
            if path.stat().st_size < _LARGEST_BYTES:
                found[str(path)] = path.read_bytes().decode(errors="replace")
    return found


def findings(secrets: Mapping[str, list[str]], places: Mapping[str, str]) -> list[str]:
    """Return which kind of secret is in which place."""
    return [
        f"{what} in {where}"
        for where, text in places.items()
        for what, values in secrets.items()
        if any(value in text for value in values)
    ]
