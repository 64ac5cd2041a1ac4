"""Objects to base64 text and back, by dill, with stock class names in the pickle (see `stock_names`)."""

from __future__ import annotations

import binascii
import io
import pickle
import types
from typing import Any, Final

import dill

from mep.serialize.stock_names import ours_for, stock_name_of

_LINE: Final = 76  # characters in a line of MIME base64
_NAMED: Final = (type, types.FunctionType)  # what a pickle refers to by name


class _NotPlain(Exception):
    pass


class _PlainPickler(pickle.Pickler):
    """The C pickler, for values of built-in types only: the first object of any other kind ends it."""

    def reducer_override(self, _obj: Any) -> Any:
        raise _NotPlain


class _StockNamePickler(dill.Pickler):  # type: ignore[misc] # dill has no types
    """dill's pickler, which writes the stock name where it meets a class of ours that has one."""

    __module__ = dill.Pickler.__module__  # dill asks this name whether it deals with a pickler of its own

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in _NAMED and stock_name_of(obj) is not None:
            return obj.__name__  # "a global": goes to save_global
        return NotImplemented

    def save_global(self, obj: Any, name: str | None = None) -> None:
        stock = stock_name_of(obj) if type(obj) in _NAMED else None
        if stock is None:
            super().save_global(obj, name)
            return
        self.save(stock[0])
        self.save(stock[1])
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


class _StockNameUnpickler(dill.Unpickler):  # type: ignore[misc] # dill has no types
    """dill's unpickler, which gives our class where the pickle names a stock one that we have too."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("globus_compute_sdk."):
            ours = ours_for(module, name)
            if ours is not None:
                return ours
        return super().find_class(module, name)


def to_base64(obj: Any) -> str:
    """Return the pickle of `obj` as MIME base64: lines of 76 characters, a line end after each."""
    try:
        # ten times faster than dill, whose pickler is written in Python; the bytes mean the same to every reader
        buffer = io.BytesIO()
        _PlainPickler(buffer, protocol=4).dump(obj)
        return _wrap(buffer.getvalue())
    except _NotPlain:
        pass
    buffer = io.BytesIO()
    _StockNamePickler(buffer, **_dill_settings()).dump(obj)
    return _wrap(buffer.getvalue())


def from_base64(text: str) -> Any:
    """Return the object in `text`. Runs whatever code the pickle names: only for text from the task's owner."""
    raw = binascii.a2b_base64(text.encode("ascii"))
    return _StockNameUnpickler(io.BytesIO(raw), ignore=dill.settings["ignore"]).load()


def _wrap(raw: bytes) -> str:
    text = binascii.b2a_base64(raw, newline=False).decode("ascii")
    if len(text) <= _LINE:
        return text + "\n"
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join(lines) + "\n"


def _dill_settings() -> dict[str, Any]:
    """The user may have changed dill's settings, as the stock strategies allow."""
    settings = dill.settings
    return {name: settings[name] for name in ("protocol", "byref", "fmode", "recurse")}
