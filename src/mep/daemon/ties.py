"""What the keeper of user endpoints needs from its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mep.admit.rules import LoadRules
from mep.daemon.outcomes import Outcomes
from mep.daemon.wishes import Wish
from mep.priv import clone
from mep.priv.box import Box


@dataclass(frozen=True, kw_only=True)
class Ties:
    """What the keeper needs from its surroundings.

    `fork`: fork the request process of a wish into a box. `obeyed`: the command is final, remember it, or raise.
    `empty`: the last user endpoint is gone. `rules`: who may and how many, as config.yaml has it now. `edition`: a
    number that is another one after each change of the rules and of the mapping.
    """

    make_box: Callable[[str], Box]
    fork: Callable[[Wish, Box, Any], clone.Child]
    outcomes: Outcomes
    obeyed: Callable[[Wish], None]
    empty: Callable[[], None]
    rules: Callable[[], LoadRules]
    edition: Callable[[], int]
