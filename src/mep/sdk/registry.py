"""Functions on their way to a function id: serialized once, registered once."""

from __future__ import annotations

import hashlib
import threading
import types
from collections.abc import Callable
from typing import Any, Final

from mep.sdk.client import Client
from mep.sdk.functions import registration
from mep.serialize import Serializer

_KEPT_MOST: Final = 2000  # functions; a loop that makes lambdas must not fill the memory


class Function:
    """One function, registered when its first call is sent. Calls that are sent meanwhile wait for its id."""

    def __init__(self, body: dict[str, Any] | None, function_id: str | None = None) -> None:
        self._body = body
        self._id = function_id
        self._lock = threading.Lock()

    def registered(self, client: Client) -> str:
        """Return the id, registering the function if that has not been done; raises what the client raises."""
        if self._id is None:
            with self._lock:
                if self._id is None:
                    assert self._body is not None
                    self._id = client.register_prepared(self._body)
                    self._body = None  # the code is at the relay now
        return self._id


class Registry:
    """Finds the Function of a callable: by the identity of a plain function, else by what it serializes to."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self._by_identity: dict[int, tuple[Any, types.CodeType, Function]] = {}
        self._by_content: dict[bytes, Function] = {}

    def find(self, function: Callable[..., Any], **options: Any) -> Function:
        """Return its Function; SerializationError if it cannot become text. `options` as `register_function`."""
        if options or not isinstance(function, types.FunctionType):
            return self._by_text(function, options)
        known = self._by_identity.get(id(function))
        if known is not None and known[1] is function.__code__:
            return known[2]
        found = self._by_text(function, options)
        self._remember(function, found)
        return found

    def bind(self, function: Callable[..., Any], function_id: str) -> Function:
        """Use an id that exists already for this callable."""
        found = Function(None, function_id)
        if isinstance(function, types.FunctionType):
            self._remember(function, found)
        else:
            self._by_content[self._digest(self._serializer.serialize(function), {})] = found
        return found

    def _by_text(self, function: Callable[..., Any], options: dict[str, Any]) -> Function:
        buffer = self._serializer.serialize(function)
        digest = self._digest(buffer, options)
        found = self._by_content.get(digest)
        if found is None:
            found = Function(registration(function, buffer, **options))
            if len(self._by_content) >= _KEPT_MOST:
                self._by_content.clear()
            found = self._by_content.setdefault(digest, found)
        return found

    def _remember(self, function: types.FunctionType, found: Function) -> None:
        if len(self._by_identity) >= _KEPT_MOST:
            self._by_identity.clear()
        # holds the function itself: the id of an object that is gone may be given to another
        self._by_identity[id(function)] = (function, function.__code__, found)

    def _digest(self, buffer: str, options: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{buffer}{sorted(options.items())!r}".encode()).digest()
