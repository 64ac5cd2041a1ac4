"""YAML text -> plain data, with the line of every key, and nothing that surprises.

Differences to a plain safe load: a key given twice is an error; tags are an error; aliases count each time they
are used (so a "billion laughs" file ends early); `10:00:00` stays a text (YAML 1.1 makes it the number 36000, and
every scheduler's walltime looks like that).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from mep.base.codes import Code
from mep.base.errors import InputError

MAX_CHARS: Final = 1024 * 1024
MAX_VALUES: Final = 100_000
MAX_DEPTH: Final = 50

Path = tuple[str | int, ...]
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_FEW_LEVELS: Final = 1000  # indentation alone costs half the square of its levels in characters
_MOST_BITS: Final = 256  # beyond 4300 digits, which hexadecimal can say, Python does not even show it
_MAP, _SEQ, _STR, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "merge"))
_SCALARS: Final = {f"tag:yaml.org,2002:{n}" for n in ("null", "bool", "int", "float", "str", "timestamp")}


class _Loader(_Base):  # type: ignore[misc] # the C loader has no type of its own
    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        tag: str = super().resolve(kind, value, implicit)
        if tag.endswith((":int", ":float")) and _SEXAGESIMAL.fullmatch(value):
            return _STR
        return tag


@dataclass(frozen=True)
class Located:
    """The data of a document and, for messages, the line (from 1) of each path in it."""

    data: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """Return the line of `path`, or of the nearest parent that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def load_yaml(text: str, *, source: str) -> Located:
    """Return the data in `text`; InputError(CONFIG_INVALID) names `source`, the line and what is wrong."""
    if len(text) > MAX_CHARS:
        raise InputError(Code.CONFIG_INVALID, f"{source}: {len(text)} characters; {MAX_CHARS} are allowed.")
    walk = _Walk(text, source)
    try:
        return walk.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise walk.wrong(mark, f"not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(Code.CONFIG_INVALID, f"{source}: not valid YAML: {str(error).splitlines()[0]}.") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(Code.CONFIG_INVALID, f"{source}: not valid YAML: {error}.") from None


class _Walk:
    """Turns one document's nodes into data, counting as it goes."""

    def __init__(self, text: str, source: str) -> None:
        self._loader = _Loader(text)
        self._text, self._source = text, source
        self._left = MAX_VALUES
        self._lines: dict[Path, int] = {}

    def document(self) -> Located:
        self._check_nesting()
        try:
            node = self._loader.get_single_node()
            return Located(None if node is None else self._value(node, ()), self._lines)
        finally:
            self._loader.dispose()

    def _check_nesting(self) -> None:
        """Count the levels of a text that could have very many: the parser in C takes a piece of stack for each,
        and ends the process where there is none left."""
        if sum(map(self._text.count, "[{-?")) < _FEW_LEVELS:
            return
        depth = 0
        for event in yaml.parse(self._text, Loader=_Base):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self.wrong(event.start_mark, f"nested deeper than {MAX_DEPTH}")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def wrong(self, mark: Any, what: str) -> InputError:
        where = f"{self._source} line {mark.line + 1}" if mark is not None else self._source
        return InputError(Code.CONFIG_INVALID, f"{where}: {what}.")

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._left -= 1
        if self._left < 0 or len(path) > MAX_DEPTH:
            raise self.wrong(
                node.start_mark,
                f"more than {MAX_VALUES} values, or nested deeper than {MAX_DEPTH}, aliases included",
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            value = self._loader.construct_object(node)
            if isinstance(value, int) and value.bit_length() > _MOST_BITS:
                raise self.wrong(node.start_mark, "a number that large cannot be meant")
            return value
        raise self.wrong(node.start_mark, f"the tag {node.tag[:80]!r} is not allowed here; write plain values")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for one in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if not isinstance(one, yaml.MappingNode):
                        raise self.wrong(one.start_mark, "'<<' takes a mapping")
                    merged = self._mapping(one, path) | merged
                continue
            key = self._value(key_node, (*path, "?"))
            if not isinstance(key, str):
                raise self.wrong(key_node.start_mark, f"the key {repr(key)[:80]} must be a text; put it in quotes")
            if key in found:
                raise self.wrong(key_node.start_mark, f"the key {key[:80]!r} is there twice")
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            found[key] = self._value(value_node, (*path, key))
        return merged | found
