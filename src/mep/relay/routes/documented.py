"""What /docs and /openapi.json say about the routes, which decode and encode by themselves."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from mep.relay.routes.answers import Failure

_WHY: Final = {
    303: "Back to the program that waits on this machine.",
    400: "An id that is no UUID, or a body that is no JSON.",
    401: "No token, or one that is not known here.",
    403: "Known, and not allowed.",
    404: "Not here.",
    413: "Too large.",
    422: "JSON, but not what is wanted here.",
    423: "The endpoint is locked.",
    429: "Too many requests; Retry-After says how long to wait.",
    503: "The broker or the database does not serve at the moment; Retry-After says when to try again.",
}

#: Callers prove themselves so. `login`: a bearer token of a person or a program. `client`: HTTP Basic.
SCHEMES: Final = {
    "login": {"type": "http", "scheme": "bearer", "description": "`mep login`, or `mep relay token`"},
    "client": {"type": "http", "scheme": "basic", "description": "`mep relay client`"},
}


def says(
    gives: Any,
    *errors: int,
    takes: Any = None,
    login: str = "login",
    also: dict[int, Any] | None = None,
) -> dict[str, Any]:
    """Return the decorator's arguments for a route that answers with `gives`, or refuses with one of `errors`.

    What every route does to callers who must log in, and to JSON bodies, is added. `gives`: a struct, or a media
    type. `also`: further answers of the same kinds; "" for one without content.
    """
    known = {*errors, 503, *((401, 403, 429) if login == "login" else ())}
    if takes is not None and not isinstance(takes, dict):
        known |= {400, 413, 422}
    told: dict[int | str, Any] = {200: {"description": "Done.", "content": _content(gives)}}
    told |= {number: {"description": _WHY[number], "content": _content(Failure)} for number in sorted(known)}
    for number, kind in (also or {}).items():
        told[number] = {"description": _WHY[number], **({"content": _content(kind)} if kind else {})}
    extra: dict[str, Any] = {"security": [{login: []}] if login else []}
    if takes is not None:
        extra["requestBody"] = {"required": True, "content": _content(takes)}
    return {"responses": told, "openapi_extra": extra}


def form(*fields: str) -> dict[str, Any]:
    """Return the content of a form with these text fields."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in fields}}
    return {"application/x-www-form-urlencoded": {"schema": schema}}


class DocumentedApi(FastAPI):
    """Its document says what the routes do, not what the framework would."""

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            document = super().openapi()
            parts = document.setdefault("components", {})
            parts["securitySchemes"] = SCHEMES
            for name in ("HTTPValidationError", "ValidationError"):
                parts.get("schemas", {}).pop(name, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    _correct(operation)
        return self.openapi_schema or {}


def _correct(operation: dict[str, Any]) -> None:
    """Take out the framework's own 422, which no route gives; say which parameters are ids."""
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["schema"] = {"type": "string", "format": "uuid"}


def _content(kind: Any) -> dict[str, Any]:
    if isinstance(kind, dict):
        return kind
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": schema_of(kind)}}


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type, whole, without references."""
    (schema,), parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    whole = _inlined(schema, parts)
    assert isinstance(whole, dict)
    return msgspec.json.decode(msgspec.json.encode(whole), type=dict[str, Any])


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {key: _inlined(value, parts) for key, value in schema.items()}
    return [_inlined(value, parts) for value in schema] if isinstance(schema, list) else schema
