"""The sample config.yaml and the reference tables: both from the settings' own declarations."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mep.config.parsing import extra_of

_WIDTH: Final = 115
_PLAIN = re.compile(
    r"[A-Za-z/][A-Za-z0-9_./-]*(://[A-Za-z0-9_.-]+(:[0-9]+)?)?(/[A-Za-z0-9_./-]*)?|[\w.-]+@[\w.-]+"
)
_NOT_TEXT: Final = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def sample(model: type[BaseModel], given: Mapping[str, Any] | None = None, *, heading: str = "") -> str:
    """Return a config.yaml: every setting with its description, those of `given` set, all others commented out."""
    given = given or {}
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH - 2)]
    for name, field in model.model_fields.items():
        extra = extra_of(field)
        if _is_stock(field) and name not in given:
            continue
        if extra.get("section"):
            lines += ["", f"# ---- {extra['section']} ".ljust(_WIDTH, "-")]
        lines += ["", *(f"# {line}" for line in textwrap.wrap(field.description or "", _WIDTH - 2))]
        if name in given:
            lines += _entry(name, given[name])
        else:
            lines += [f"#{line}" for line in _entry(name, extra.get("example") or _default(field))]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_stock(field: FieldInfo) -> bool:
    return (field.description or "").startswith("Stock setting")


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return default.model_dump() if isinstance(default, BaseModel) else default


def _entry(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}:", *(f"  {key}: {_scalar(inner)}" for key, inner in value.items())]
    return [f"{name}: {_scalar(value)}"]


def _scalar(value: Any) -> str:
    """JSON is YAML; a plain word or address needs no quotes."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)


def reference(model: type[BaseModel]) -> str:
    """Return the settings of `model` as Markdown tables, one per section; nested settings as `a.b`."""
    lines: list[str] = []
    for name, field in _flat(model):
        extra = extra_of(field)
        if extra.get("section") or not lines:
            lines += ["", f"### {extra.get('section') or model.__name__}", "", *_HEAD]
        lines.append(f"| `{name}` | {_default_cell(field)} | {_cell(_meaning(field, extra))} |")
    return "\n".join(lines).strip() + "\n"


_HEAD = ("| key | default | meaning |", "|---|---|---|")


def _flat(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        yield prefix + name, field
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from _flat(type(default), f"{prefix}{name}.")


def _meaning(field: FieldInfo, extra: Mapping[str, str]) -> str:
    ignored = extra.get("ignored")
    return f"{field.description} No effect: {ignored}." if ignored else field.description or ""


def _default_cell(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, BaseModel):
        return ""
    return f"`{json.dumps(default)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
