"""Data -> frozen settings, with errors that name file, line, key, what was found and what was wanted."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.config.yamltext import Located, Path

M = TypeVar("M", bound=BaseModel)


class Settings(BaseModel):
    """Base of all settings: data only, frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def setting(
    default: Any,
    description: str,
    *,
    section: str = "",
    example: str = "",
    ignored: str = "",
    **constraints: Any,
) -> Any:
    """Declare a setting: its one description feeds parser, sample file and reference page.

    `section` heads the settings from here on; `example` is shown in the sample where the default says little;
    `ignored`: the stock setting is accepted and has no effect, for this reason.
    """
    extra: JsonDict = {"section": section, "example": example, "ignored": ignored}
    if callable(default):
        return Field(default_factory=default, description=description, json_schema_extra=extra, **constraints)
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def extra_of(field: FieldInfo) -> dict[str, str]:
    """Return what `setting` recorded beside the description."""
    extra = field.json_schema_extra
    return {k: str(v) for k, v in extra.items()} if isinstance(extra, dict) else {}


def ignored_settings(settings: BaseModel) -> list[tuple[str, str]]:
    """Return (key, reason) for every key that was given and has no effect."""
    fields = type(settings).model_fields
    pairs = (
        (name, extra_of(fields[name]).get("ignored", "")) for name in settings.model_fields_set if name in fields
    )
    return sorted(pair for pair in pairs if pair[1])


def build(model: type[M], located: Located, *, source: str) -> M:
    """Return `model` of the data; InputError(CONFIG_INVALID | CONFIG_UNKNOWN_KEY) shows up to three faults."""
    try:
        return model.model_validate(located.data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=True, include_input=True)
    texts = [_describe(fault, model, located, source) for fault in faults]
    code = next((code for code, _ in texts if code is Code.CONFIG_UNKNOWN_KEY), texts[0][0])
    more = f" ({len(texts) - 3} more faults are not shown.)" if len(texts) > 3 else ""
    raise InputError(code, " ".join(text for _, text in texts[:3]) + more)


def nearest(word: str, known: Iterable[str], *, shown: int = 8) -> str:
    """Return "Did you mean 'x'?" and the known words, nearest first, for a message."""
    word = word[:80]  # what nobody mistyped is compared for ever
    ordered = sorted(known, key=lambda k: -difflib.SequenceMatcher(None, word.lower(), k.lower()).ratio())
    if not ordered:
        return ""
    close = difflib.get_close_matches(word, ordered, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    rest = ", ".join(ordered[:shown]) + (", ..." if len(ordered) > shown else "")
    return f"{hint}Known, nearest first: {rest}"


def shorten(value: object, limit: int = 60) -> str:
    """Return `value` as JSON, cut to what fits a message."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def at(source: str, line: int | None, path: Path) -> str:
    """Return "config.yaml line 3: engine.max_workers" for a message."""
    where = source if line is None else f"{source} line {line}"
    name = dotted(path)
    return f"{where}: {name}" if name else where


def dotted(path: Path) -> str:
    """Return a path as people write it: a.b[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part[:80]}" if text else part[:80])
    return text


def _describe(fault: ErrorDetails, model: type[BaseModel], located: Located, source: str) -> tuple[Code, str]:
    path = _in_data(fault["loc"], located.data, missing=fault["type"] == "missing")
    where = at(source, located.line(path), path)
    context = fault.get("ctx", {})
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1], located.data)
        return Code.CONFIG_UNKNOWN_KEY, f"{where}: no such key. {nearest(str(path[-1]), known)}."
    if fault["type"] == "missing":
        return Code.CONFIG_INVALID, f"{where}: this key is required and missing."
    if fault["type"] == "value_error" and isinstance(context.get("error"), ConfigFault):
        inner = context["error"]
        where = at(source, located.line((*path, *inner.path)), (*path, *inner.path))
        return inner.code, f"{where}: {inner.text}"
    wanted = (
        str(context.get("error") or fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    )
    if fault["type"] in ("model_type", "dict_type"):
        wanted = "keys and values"
    return Code.CONFIG_INVALID, f"{where}: found {shorten(fault['input'])}, wanted {wanted}."


class ConfigFault(ValueError):
    """Raised by a validator: a finished text (a sentence), its code, and the path below the validated value."""

    def __init__(self, text: str, *, code: Code = Code.CONFIG_INVALID, path: Path = ()) -> None:
        super().__init__(text)
        self.text, self.code, self.path = text, code, path


def _in_data(loc: Sequence[str | int], data: Any, *, missing: bool) -> Path:
    """Drop from pydantic's location what names a branch of a union: keep what is in the data, or missing there."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        inside = isinstance(data, dict) and part in data
        inside = inside or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if inside:
            data = data[part]
        elif not (missing and index == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _known_keys(model: type[BaseModel], path: Path, data: Any) -> list[str]:
    """Return the keys that may stand where `path` leads, following nested settings."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is None or not isinstance(part, str) or part not in current.model_fields:
            return []
        data = data.get(part) if isinstance(data, dict) else None
        current = _model_of(current.model_fields[part].annotation, data)
    return list(current.model_fields) if current else []


def _model_of(annotation: Any, data: Any) -> type[BaseModel] | None:
    """Return the settings class in an annotation; of several, the one whose `type` the data names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    candidates = [m for arg in getattr(annotation, "__args__", ()) if (m := _model_of(arg, data))]
    wanted = data.get("type") if isinstance(data, dict) else None
    return next((m for m in candidates if m.__name__ == wanted), candidates[0] if candidates else None)
