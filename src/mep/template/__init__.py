"""Schema check, quoting and sandboxed rendering of what a user asks for; no side effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mep.template.options import RESERVED, check_schema, validate_options

if TYPE_CHECKING:
    from mep.template.rendering import ReservedVariables, check_template, render

__all__ = ["RESERVED", "ReservedVariables", "check_schema", "check_template", "render", "validate_options"]


def __getattr__(name: str) -> Any:
    """Import Jinja only for those who render: the relay checks options without it."""
    if name not in ("ReservedVariables", "check_template", "render"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mep.template import rendering

    return getattr(rendering, name)
