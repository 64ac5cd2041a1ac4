"""The one door to serialization: objects to texts, texts to objects, whole calls out of task buffers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mep.base.errors import MepError
from mep.serialize import strategies
from mep.serialize.errors import DeserializationError, SerdeError, SerializationError
from mep.serialize.strategies import ID_LENGTH, STRATEGIES, DillCode, DillDataBase64, Strategy
from mep.wire.packing import pack, unpack

StrategyLike = Strategy | type[Strategy] | str

#: Where a strategy may be said to live: stock settings name it by the stock paths.
_PREFIXES = (
    "globus_compute_sdk.serialize.concretes.",
    "globus_compute_sdk.serialize.",
    "mep.serialize.strategies.",
    "mep.serialize.",
)
_CODE_WILDCARDS = ("globus_compute_sdk.*Code", "mep.*Code")
_DATA_WILDCARDS = ("globus_compute_sdk.*Data", "mep.*Data")


def find_strategy(wanted: object, *, for_code: bool | None = None) -> Strategy:
    """Return the strategy for an instance, a class or an import path, ours or a stock one; SerdeError if none."""
    found: object = wanted if isinstance(wanted, type | str) else type(wanted)
    if isinstance(found, type) and not issubclass(found, Strategy):
        found = f"{found.__module__}.{found.__name__}"  # perhaps a class of the stock package
    if isinstance(found, str):
        path = found
        name = next((path.removeprefix(p) for p in _PREFIXES if path.startswith(p)), "")
        found = getattr(strategies, name, None) if name and not name.startswith("_") else None
    if not isinstance(found, type) or not issubclass(found, Strategy) or found.identifier not in STRATEGIES:
        known = ", ".join(sorted(type(s).__name__ for s in STRATEGIES.values()))
        raise SerdeError(f"{wanted!r} is no serialization strategy; known are {known} (of mep.serialize)")
    if for_code is not None and found.for_code != for_code:
        has, needs = ("data", "code") if for_code else ("code", "data")
        raise SerdeError(f"{found.__name__} is for {has}; a strategy for {needs} is wanted")
    return STRATEGIES[found.identifier]


@functools.cache
def _allowed_ids(allowed: tuple[str, ...]) -> frozenset[str]:
    """Return the identifiers that these patterns let in; SerdeError for an unknown or one-sided list."""
    ids: set[str] = set()
    for pattern in allowed:
        if pattern in _CODE_WILDCARDS or pattern in _DATA_WILDCARDS:
            for_code = pattern in _CODE_WILDCARDS
            ids.update(i for i, s in STRATEGIES.items() if s.for_code == for_code)
        else:
            ids.add(find_strategy(pattern).identifier)
    if {STRATEGIES[i].for_code for i in ids} != {True, False}:
        raise SerdeError(
            f"Allowed serializers must name at least one for code and one for data, found {', '.join(allowed)}"
        )
    return frozenset(ids)


class Serializer:
    """Serializes callables by one strategy and everything else by another; reads whatever strategy it meets.

    `allowed`: import paths and the wildcards `globus_compute_sdk.*Code`, `globus_compute_sdk.*Data` (and the same
    with `mep.`); empty: everything. SerdeError for an unknown one.
    """

    def __init__(
        self,
        code_strategy: StrategyLike | None = None,
        data_strategy: StrategyLike | None = None,
        *,
        allowed: Iterable[str] = (),
    ) -> None:
        self.code_strategy = find_strategy(code_strategy or DillCode, for_code=True)
        self.data_strategy = find_strategy(data_strategy or DillDataBase64, for_code=False)
        patterns = tuple(allowed)
        self._allowed = _allowed_ids(patterns) if patterns else None

    def serialize(self, data: Any) -> str:
        """Return the buffer (identifier and payload) of `data`; SerializationError names strategy and cause."""
        strategy = self.code_strategy if callable(data) else self.data_strategy
        return _serialize_by(strategy, data)

    def deserialize(self, payload: str) -> Any:
        """Return the object of a buffer. DeserializationError: unknown, not allowed, or broken.

        Runs code that the buffer names, as every pickle does: only for what the task's owner sent.
        """
        strategy = STRATEGIES.get(payload[:ID_LENGTH])
        if strategy is None:
            raise DeserializationError(f"unknown strategy {payload[: ID_LENGTH - 1]!r}")
        if self._allowed is not None and strategy.identifier not in self._allowed:
            names = ", ".join(sorted(type(STRATEGIES[i]).__name__ for i in self._allowed))
            kind = "function" if strategy.for_code else "arguments"
            raise DeserializationError(
                f"the {kind} came by {type(strategy).__name__}, which is not allowed here; allowed: {names}"
            )
        try:
            return strategy.deserialize(payload)
        except MepError:
            raise
        except Exception as error:
            name = type(strategy).__name__
            raise DeserializationError(f"{name}: {type(error).__name__}: {error}") from error

    def pack(self, buffers: Iterable[str]) -> str:
        """Return the buffers in a row, each behind its length."""
        return pack(buffers)

    def unpack(self, packed: str) -> list[str]:
        """Return the buffers of `packed`; InputError(TASK_MALFORMED) if a length is wrong."""
        return unpack(packed)

    def pack_arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """Return the payload of a submit: packed arguments, then packed keyword arguments."""
        data = self.data_strategy
        return pack((_serialize_by(data, tuple(args)), _serialize_by(data, kwargs) if kwargs else _empty(data)))

    def load_call(self, task_buffer: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return function, arguments and keyword arguments of a task buffer (code + args + kwargs, packed).

        DeserializationError names the part; InputError(TASK_MALFORMED) if these are not three buffers.
        """
        buffers = unpack(task_buffer)
        if len(buffers) != 3:
            raise DeserializationError(f"a call has three buffers (code, args, kwargs); found {len(buffers)}")
        function = self.deserialize(buffers[0])
        args, kwargs = self.deserialize(buffers[1]), self.deserialize(buffers[2])
        if not callable(function) or not isinstance(kwargs, dict) or not isinstance(args, list | tuple):
            kinds = ", ".join(type(part).__name__ for part in (function, args, kwargs))
            raise DeserializationError(f"wanted function, list, dict; found {kinds}")
        return function, tuple(args), kwargs

    def check_strategies(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Return [function, args, kwargs] after a round trip: a rehearsal of what the far end will get."""
        buffers = [self.serialize(function), self.serialize(args), self.serialize(kwargs)]
        return [self.deserialize(buffer) for buffer in buffers]


def serialize_result(value: Any, serializers: Sequence[StrategyLike] | None = None) -> str:
    """Return the buffer of a task's value: by the first of `serializers` that can, else by the defaults.

    SerializationError has the cause of each that failed.
    """
    problems = []
    for wanted in serializers or (DillCode if callable(value) else DillDataBase64,):
        try:
            return _serialize_by(find_strategy(wanted, for_code=callable(value)), value)
        except SerdeError as error:
            problems.append(error.reason)
    raise SerializationError("; ".join(problems))


def _serialize_by(strategy: Strategy, data: Any) -> str:
    try:
        return strategy.serialize(data)
    except SerdeError:
        raise
    except Exception as error:
        raise SerializationError(f"{type(strategy).__name__}: {type(error).__name__}: {error}") from error


@functools.cache
def _empty(strategy: Strategy) -> str:
    """Most calls have no keyword arguments: their buffer is made once."""
    return strategy.serialize({})
