"""user_environment.yaml: the environment variables of user endpoints."""

from __future__ import annotations

import re
from typing import Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.parsing import shorten
from mep.config.yamltext import load_yaml

#: Variables that come from the account, whatever the file says.
FROM_ACCOUNT: Final = ("HOME", "USER", "LOGNAME", "SHELL", "PWD")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_user_environment(text: str, *, source: str) -> dict[str, str]:
    """Return the variables in `text`, without those of `FROM_ACCOUNT`; `source` names the file in messages.

    A number or truth value is taken as it is written in Python (`3`, `True`), null as "".
    InputError(CONFIG_INVALID) names file, line and variable.
    """
    located = load_yaml(text, source=source)
    data = {} if located.data is None else located.data
    if not isinstance(data, dict):
        raise InputError(Code.CONFIG_INVALID, f"{source}: wanted `NAME: value` lines, found something else.")
    found: dict[str, str] = {}
    for name, value in data.items():
        where = f"{source} line {located.line((name,))}: {name}"
        if not _NAME.fullmatch(name):
            raise InputError(Code.CONFIG_INVALID, f"{where}: cannot name an environment variable.")
        if isinstance(value, dict | list) or "\0" in str(value):
            raise InputError(Code.CONFIG_INVALID, f"{where}: found {shorten(value)}, wanted one text.")
        if name not in FROM_ACCOUNT:
            found[name] = "" if value is None else str(value)
    return found
