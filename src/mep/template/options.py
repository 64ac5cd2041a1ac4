"""May a user ask for this? `user_endpoint_config` against reserved names and the administrator's JSON schema.

Needs jsonschema only, so that the relay can ask the same question before any process starts. A pattern in a
schema is the administrator's: one with catastrophic backtracking slows the relay down, so keep patterns simple.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from mep.base.codes import Code
from mep.base.errors import InputError

#: Names that the template gets from the endpoint; a user's option may not stand in for one.
RESERVED: Final = ("_GC", "parent_config", "user_runtime", "mapped_identity")
MAX_DEPTH: Final = 50
_SHOWN: Final = 3
_KEY = re.compile(r"(?!-( |$))[\w./@+-]{1,256}( [\w./@+-]{1,256}){0,8}")


def validate_options(options: Any, schema: Any, *, source: str = "user_config_schema") -> None:
    """Raise InputError unless a user may ask for `options` under `schema` (None: no schema).

    OPTIONS_INVALID: not a JSON object, or against the schema; names the JSON path, the value and what was wanted,
    for up to three faults. OPTIONS_RESERVED: a reserved name. SCHEMA_INVALID: the schema itself is wrong.
    """
    check_plain(options, "user_endpoint_config")
    for name in RESERVED:
        if name in options:
            raise InputError(
                Code.OPTIONS_RESERVED,
                f"user_endpoint_config: {name!r} is set by the endpoint and cannot be given. "
                f"Reserved names: {', '.join(RESERVED)}.",
            )
    if schema is None:
        return
    validator = _validator_of(schema, source)
    try:
        faults = sorted(validator.iter_errors(options), key=lambda fault: list(map(str, fault.absolute_path)))
    except Unresolvable as error:
        raise _bad_schema(source, f"refers to {error.ref!r}, which is not in it; nothing is fetched") from None
    except (re.error, RecursionError, TypeError) as error:
        raise _bad_schema(source, f"cannot be applied: {error}") from None
    if faults:
        texts = [_describe(fault) for fault in faults[:_SHOWN]]
        more = f" ({len(faults) - _SHOWN} more faults are not shown.)" if len(faults) > _SHOWN else ""
        places = ", ".join(f"{json_path(fault.absolute_path)} ({fault.validator})" for fault in faults[:_SHOWN])
        raise InputError(
            Code.OPTIONS_INVALID,
            f"user_endpoint_config: {' '.join(texts)}{more}",
            # a value is the user's own, and may be a secret: logs name the place only
            admin_text=f"user_endpoint_config is against the schema at {places}.",
        )


def check_schema(schema: Any, *, source: str = "user_config_schema") -> None:
    """Raise InputError(SCHEMA_INVALID) unless `schema` is a JSON schema."""
    _validator_of(schema, source)


def check_plain(options: Any, role: str) -> None:
    """Raise InputError(OPTIONS_INVALID) unless `options` is a JSON object whose keys are plain words.

    Values are quoted when they are rendered; keys cannot be, because templates look options up by them. So a key
    that could change the structure of the YAML around it (a line break, `: `, a quote, ...) is refused here.
    """
    if not isinstance(options, dict):
        raise InputError(Code.OPTIONS_INVALID, f"{role}: wanted an object (a dict), found {_short(options)}.")
    _check(options, ["$"], role)


def _check(value: Any, path: list[str], role: str) -> None:
    where = f"{role}: {''.join(path)}"
    if len(path) > MAX_DEPTH:
        raise InputError(Code.OPTIONS_INVALID, f"{role}: nested deeper than {MAX_DEPTH}.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                raise InputError(
                    Code.OPTIONS_INVALID,
                    f"{where}: the key {_short(key)} has characters other than letters, digits, '_', '-', '.', "
                    "'/', '@', '+' and single spaces.",
                )
            _check(inner, [*path, f".{key}"], role)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check(inner, [*path, f"[{index}]"], role)
    elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(Code.OPTIONS_INVALID, f"{where}: {_short(value)} has half of a surrogate pair.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(Code.OPTIONS_INVALID, f"{where}: {value} is not a JSON number.")
    elif not isinstance(value, str | int | float | None):
        raise InputError(Code.OPTIONS_INVALID, f"{where}: {type(value).__name__} is not a JSON type.")


def _validator_of(schema: Any, source: str) -> Validator:
    try:
        return _validator(json.dumps(schema, sort_keys=True))
    except _SchemaFault as fault:
        raise _bad_schema(source, str(fault)) from None


class _SchemaFault(Exception):
    """What is wrong with a schema."""


@lru_cache(maxsize=64)
def _validator(schema_text: str) -> Validator:
    """Checking a schema against its metaschema costs more than applying it: once per schema, before the fork."""
    schema = json.loads(schema_text)
    if not isinstance(schema, dict | bool):
        raise _SchemaFault(f"must be an object, found {_short(schema)}")
    cls: Any = validator_for(schema, default=jsonschema.Draft202012Validator)
    draft = cls.META_SCHEMA["$schema"]
    if isinstance(schema, dict) and str(schema.get("$schema", draft)).rstrip("#") != draft.rstrip("#"):
        raise _SchemaFault(f"$schema: {_short(schema['$schema'])} is not a known draft")
    try:
        cls.check_schema(schema)
    except SchemaError as error:
        raise _SchemaFault(f"{json_path(error.absolute_path)}: {error.message[:200]}") from None
    # An empty registry: a "$ref" to another host is never followed.
    found: Validator = cls(schema, registry=Registry(), format_checker=cls.FORMAT_CHECKER)
    return found


def _bad_schema(source: str, what: str) -> InputError:
    return InputError(
        Code.SCHEMA_INVALID,
        "The endpoint's schema for user_endpoint_config is not valid.",
        admin_text=f"{source}: {what}.",
        step="Ask the administrator of this endpoint to correct it.",
    )


def json_path(path: Iterable[str | int]) -> str:
    """Return `$.a.b[0]` for a path."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _describe(fault: ValidationError) -> str:
    found = f"found {_short(fault.instance)}"
    where = json_path(fault.absolute_path)
    if fault.validator == "required":
        wanted_keys: Any = fault.validator_value
        missing = [k for k in wanted_keys if k not in cast("Any", fault.instance)]
        return f"{where}: {', '.join(map(repr, missing))} is required and missing."
    if fault.validator == "additionalProperties" and isinstance(fault.instance, Mapping):
        schema: Any = fault.schema
        known = list(schema.get("properties", {}))
        extra = [k for k in fault.instance if k not in known]
        wanted = f"wanted one of {', '.join(sorted(known))}" if known else "wanted no option"
        return f"{where}: {', '.join(map(repr, extra[:5]))} is not an option here; {wanted}."
    return f"{where}: {found}, wanted {_wanted(fault)}."


def _wanted(fault: ValidationError) -> str:
    rule, value = str(fault.validator), cast("Any", fault.validator_value)
    texts: dict[str, Callable[[], str]] = {
        "type": lambda: " or ".join(value) if isinstance(value, list) else f"{value}",
        "enum": lambda: "one of " + ", ".join(_short(v) for v in value[:20]),
        "const": lambda: _short(value),
        "pattern": lambda: f"a text that matches {_short(value, 120)}",
        "format": lambda: f"the format {value!r}",
        "minimum": lambda: f"at least {value}",
        "maximum": lambda: f"at most {value}",
        "exclusiveMinimum": lambda: f"more than {value}",
        "exclusiveMaximum": lambda: f"less than {value}",
        "multipleOf": lambda: f"a multiple of {value}",
        "minLength": lambda: f"at least {value} characters",
        "maxLength": lambda: f"at most {value} characters",
        "minItems": lambda: f"at least {value} items",
        "maxItems": lambda: f"at most {value} items",
        "uniqueItems": lambda: "items that are all different",
    }
    describe = texts.get(rule)
    if describe is not None:
        return describe()
    return f"what {rule!r} says: {_short(value, 160)}"


def _short(value: object, limit: int = 80) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
