"""How a user's values look inside a template.

A text becomes its JSON form, quotes included, as in the stock endpoint: whatever it holds, YAML reads it back as
one text. Everything else keeps its type, so that templates can compute with it.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

_PAIR: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")


def yaml_text(raw: str) -> str:
    """Return `raw` as JSON text that YAML reads alike: a pair of surrogates is one character there, too."""
    return _joined(json.dumps(raw))


def _joined(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = 0x10000 + ((int(match[2], 16) - 0xD800) << 10) + (int(match[3], 16) - 0xDC00)
        return f"{match[1]}\\U{code:08x}"

    return _PAIR.sub(one, text)


class Quoted(str):
    """A user's text: printed with its quotes; `raw` is what the user wrote.

    Compares equal to both forms, "debug" and "\\"debug\\"", so that `{% if queue == "debug" %}` means what it says
    and templates written for the stock endpoint, where only the quoted form is equal, still work. A text that the
    user wrote *with* quotes equals neither.
    """

    raw: str
    __slots__ = ("raw",)

    def __new__(cls, raw: str) -> Quoted:
        self = super().__new__(cls, yaml_text(raw))
        self.raw = raw
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Quoted) or not isinstance(other, str):
            return str.__eq__(self, other) is True
        return str.__eq__(self, other) is True if other[:1] == '"' else self.raw == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Null(str):
    """A user's null: printed as `null`, false, `is none`, and empty wherever a text is needed."""

    __slots__ = ()

    def __new__(cls) -> Null:
        return super().__new__(cls, "")

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def quoted(value: Any) -> Any:
    """Return a JSON value as templates see it."""
    if isinstance(value, dict):
        return {key: quoted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [quoted(inner) for inner in value]
    if isinstance(value, str):
        return Quoted(value)
    return Null() if value is None else value


def unquoted(value: Any) -> Any:
    """Return what `quoted` was made from."""
    if isinstance(value, dict):
        return {key: unquoted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [unquoted(inner) for inner in value]
    if isinstance(value, Quoted):
        return value.raw
    return None if isinstance(value, Null) else value


def printed(value: Any) -> Any:
    """Return what `{{ value }}` prints: YAML that reads back as the same value.

    Plain texts (the template's own, and what it cut out of a user's) are printed as they are.
    """
    if value is None or isinstance(value, Null):
        return "null"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict | list | tuple):
        return _flow(value)
    return value


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_text(str(k))}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(v) for v in value) + "]"
    if isinstance(value, str) and not isinstance(value, Quoted | Null):
        return yaml_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(printed(value))


def _float(value: float) -> str:
    """YAML 1.1 takes 1e+22 for a text; 1.0e+22 is a number."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else text


def shell_escape(value: Any) -> Any:
    """The filter of that name: a text that a shell reads as one word, quoted for YAML."""
    if not isinstance(value, str) or isinstance(value, Null):
        return value
    return Quoted(shlex.quote(_text(value)))


def _text(value: str) -> str:
    if isinstance(value, Quoted):
        return value.raw
    try:
        loaded = json.loads(value)
    except ValueError:
        return value
    return loaded if isinstance(loaded, str) else value


def to_json(value: Any, **kwargs: Any) -> str:
    """The filter `tojson`: the user's own value, not its quoted form."""
    if kwargs.get("indent") is None:
        return _flow(unquoted(value))
    return _joined(json.dumps(unquoted(value), **kwargs))
