"""Objects to texts and back, byte-compatible with the stock strategies; shell commands as functions."""

from mep.serialize.errors import DeserializationError, SerdeError, SerializationError
from mep.serialize.facade import Serializer, StrategyLike, find_strategy, serialize_result
from mep.serialize.strategies import (
    AllCodeStrategies,
    AllDataStrategies,
    CombinedCode,
    DillCode,
    DillCodeSource,
    DillCodeTextInspect,
    DillDataBase64,
    JSONData,
    PickleCode,
    PureSourceDill,
    PureSourceTextInspect,
    Strategy,
)

__all__ = [
    "AllCodeStrategies",
    "AllDataStrategies",
    "CombinedCode",
    "ComputeSerializer",
    "DeserializationError",
    "DillCode",
    "DillCodeSource",
    "DillCodeTextInspect",
    "DillDataBase64",
    "JSONData",
    "PickleCode",
    "PureSourceDill",
    "PureSourceTextInspect",
    "SerdeError",
    "SerializationError",
    "Serializer",
    "Strategy",
    "StrategyLike",
    "find_strategy",
    "serialize_result",
]


class ComputeSerializer(Serializer):
    """A Serializer with the stock constructor."""

    def __init__(
        self,
        strategy_code: StrategyLike | None = None,
        strategy_data: StrategyLike | None = None,
        *,
        allowed_deserializer_types: list[str] | None = None,
    ) -> None:
        super().__init__(strategy_code, strategy_data, allowed=allowed_deserializer_types or ())
