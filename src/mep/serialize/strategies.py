"""The strategies that turn an object into a text: two characters that name the strategy, a line end, the payload.

Identifiers and payloads are the stock ones (protocol: serialization), byte for byte where nothing else is said.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import dill

from mep.serialize.errors import DeserializationError, SerializationError
from mep.serialize.pickles import from_base64, to_base64
from mep.wire.packing import pack, unpack

ID_LENGTH: Final = 3  # two characters and the line end

STRATEGIES: Final[dict[str, Strategy]] = {}  # by identifier, line end included


class Strategy:
    """Turns objects into texts and back. Exactly one of code (callables) and data."""

    identifier: ClassVar[str] = ""
    for_code: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.identifier:
            STRATEGIES[cls.identifier] = cls()

    def serialize(self, data: Any) -> str:
        """Return identifier and payload; whatever the object's pickling or reading raises comes through."""
        return self.identifier + self._encode(data)

    def deserialize(self, payload: str) -> Any:
        """Return the object; DeserializationError if the text is of another strategy."""
        if not payload.startswith(self.identifier):
            raise DeserializationError(f"wanted strategy {self.identifier[:-1]!r}, found {payload[:2]!r}")
        return self._decode(payload[ID_LENGTH:])

    def _encode(self, data: Any) -> str:
        raise NotImplementedError

    def _decode(self, payload: str) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class DillDataBase64(Strategy):
    """Any data, by dill. The default. Both sides need about the same Python and dill."""

    identifier = "00\n"

    def _encode(self, data: Any) -> str:
        return to_base64(data)

    def _decode(self, payload: str) -> Any:
        return from_base64(payload)


class JSONData(Strategy):
    """JSON: readable by any version of Python, and by people. Tuples arrive as lists."""

    identifier = "11\n"

    def _encode(self, data: Any) -> str:
        return json.dumps(data)

    def _decode(self, payload: str) -> Any:
        return json.loads(payload)


class DillCode(Strategy):
    """The function itself, by dill. The default. Both sides need the same minor version of Python."""

    identifier = "01\n"
    for_code = True

    def _encode(self, data: Any) -> str:
        return to_base64(data)

    def _decode(self, payload: str) -> Any:
        return from_base64(payload)


class PickleCode(Strategy):
    """Very old registrations. They can be read, and no longer made."""

    identifier = "02\n"
    for_code = True

    def _encode(self, _data: Any) -> str:
        raise SerializationError("PickleCode only reads; use DillCode")

    def _decode(self, payload: str) -> Any:
        return from_base64(payload)


def _source_by_inspect(function: Any) -> str:
    return inspect.getsource(function)


def _source_by_dill(function: Any) -> str:
    source: str = dill.source.getsource(function, lstrip=True)
    return source


def _run_source(name: str, source: str) -> Any:
    """Define what `source` defines, in a namespace of its own, and return `name` of it."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)  # noqa: S102 - the function's text comes from the task's owner
    if name not in namespace:
        raise DeserializationError(f"the source does not define {name!r}")
    return namespace[name]


class _PickledSource(Strategy):
    """A pickled (name, source). Deprecated: the pickle adds nothing to the text."""

    for_code = True

    def _encode(self, data: Any) -> str:
        return to_base64((data.__name__, self._source(data)))

    def _decode(self, payload: str) -> Any:
        name, source = from_base64(payload)
        return _run_source(name, source)

    def _source(self, function: Any) -> str:
        raise NotImplementedError


class DillCodeTextInspect(_PickledSource):
    """Deprecated; use PureSourceTextInspect."""

    identifier = "03\n"

    def _source(self, function: Any) -> str:
        return _source_by_inspect(function)


class DillCodeSource(_PickledSource):
    """Deprecated; use PureSourceDill. The default of the stock SDK 2.0."""

    identifier = "04\n"

    def _source(self, function: Any) -> str:
        return _source_by_dill(function)


class _PureSource(Strategy):
    """`<name>:<source>`, as it stands: bound to no version of Python or dill."""

    for_code = True

    def _encode(self, data: Any) -> str:
        return f"{data.__name__}:{self._source(data)}"

    def _decode(self, payload: str) -> Any:
        name, colon, source = payload.partition(":")
        if not colon:
            raise DeserializationError("wanted <function name>:<source>, found no colon")
        return _run_source(name, source)

    def _source(self, function: Any) -> str:
        raise NotImplementedError


class PureSourceTextInspect(_PureSource):
    """Source of functions that stand in a file or a notebook."""

    identifier = "st\n"

    def _source(self, function: Any) -> str:
        return _source_by_inspect(function)


class PureSourceDill(_PureSource):
    """Source of functions, those typed into an interpreter included."""

    identifier = "sd\n"

    def _source(self, function: Any) -> str:
        return _source_by_dill(function)


class _Several(Strategy):
    """Every strategy that succeeds; the reader takes the first that it can read."""

    parts: ClassVar[Sequence[type[Strategy]]]

    def _encode(self, data: Any) -> str:
        return self._join(self._encoded_parts(data))

    def _decode(self, payload: str) -> Any:
        problems = []
        for part in self._split(payload):
            strategy = STRATEGIES.get(part[:ID_LENGTH])
            if strategy is None or isinstance(strategy, _Several):
                problems.append(f"unknown strategy {part[:2]!r}")
                continue
            try:
                return strategy.deserialize(part)
            except Exception as error:  # noqa: BLE001 - unpickling may raise anything; the next part may do
                problems.append(f"{type(strategy).__name__}: {type(error).__name__}: {error}")
        raise DeserializationError("; ".join(problems) or "nothing inside")

    def _encoded_parts(self, data: Any) -> list[str]:
        encoded, problems = [], []
        for part in self.parts:
            try:
                encoded.append(STRATEGIES[part.identifier].serialize(data))
            except Exception as error:  # noqa: BLE001 - pickling may raise anything; another part may do
                problems.append(f"{part.__name__}: {type(error).__name__}: {error}")
        if not encoded:
            raise SerializationError("; ".join(problems))
        return encoded

    def _join(self, parts: Sequence[str]) -> str:
        return pack(parts)

    def _split(self, payload: str) -> Sequence[str]:
        return unpack(payload)


class CombinedCode(_Several):
    """Deprecated; use AllCodeStrategies. Parts are separated by colons, which sources may contain too."""

    identifier = "10\n"
    for_code = True
    parts = (DillCodeSource, DillCode, DillCodeTextInspect, PureSourceDill, PureSourceTextInspect)
    _heads = re.compile("|".join(f"(?:^|:){part.identifier}:" for part in parts))

    def _join(self, parts: Sequence[str]) -> str:
        return ":".join(f"{part[:ID_LENGTH]}:{part[ID_LENGTH:]}" for part in parts)

    def _split(self, payload: str) -> Sequence[str]:
        heads = list(self._heads.finditer(payload))
        ends = [head.start() for head in heads[1:]] + [len(payload)]
        return [head.group().strip(":") + payload[head.end() : end] for head, end in zip(heads, ends, strict=True)]


class AllCodeStrategies(_Several):
    """The function as source and by dill: for mixed versions of Python, at the price of size."""

    identifier = "12\n"
    for_code = True
    parts = (PureSourceTextInspect, PureSourceDill, DillCode)


class AllDataStrategies(_Several):
    """Data as JSON and by dill, as far as each can."""

    identifier = "13\n"
    parts = (JSONData, DillDataBase64)
