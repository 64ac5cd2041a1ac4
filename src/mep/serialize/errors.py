"""What can go wrong between an object and its text. The SDK shows these classes under their stock names."""

from __future__ import annotations

from mep.base.codes import Code
from mep.base.errors import InputError


class SerdeError(InputError):
    """An object could not become text, or a text could not become an object. `reason` says why."""

    _code = Code.SERIALIZATION_FAILED
    _what = "Serialization problem"

    def __init__(self, reason: str) -> None:
        super().__init__(self._code, f"{self._what}: {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason,))


class SerializationError(SerdeError):
    """An object could not become text."""

    _what = "Cannot serialize"


class DeserializationError(SerdeError):
    """A text could not become an object, or its strategy is not allowed here."""

    _code = Code.DESERIALIZATION_FAILED
    _what = "Cannot deserialize"
