"""A local account, as a value: looked up in `host`, judged here."""

from __future__ import annotations

from dataclasses import dataclass


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
