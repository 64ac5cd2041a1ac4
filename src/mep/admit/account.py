"""A local account, as a value: looked up in `host`, judged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Account:
    """What the system says about one account. `gids` is the whole supplementary list, primary group included."""

    name: str
    uid: int
    gid: int
    gids: tuple[int, ...]
    group_names: tuple[str, ...]
    home: str
    shell: str
    gecos: str = ""


@dataclass(frozen=True)
class Ids:
    """What the system says about names in the rules: an account or group has one number, maybe more names."""

    uids: Mapping[str, int] = field(default_factory=dict)
    gids: Mapping[str, int] = field(default_factory=dict)
