"""The bodies of function registrations."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable
from typing import Any

from mep.sdk.runtime import STOCK_LEVEL
from mep.wire.packing import pack


def registration(
    function: Callable[..., Any],
    buffer: str,
    *,
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
    public: bool = False,
    group: object | None = None,
    ha_endpoint_id: object | None = None,
) -> dict[str, Any]:
    """Return the body that registers `function`, whose serialized form is `buffer`."""
    name = getattr(function, "__name__", None) or type(function).__name__
    if description is None:
        description = inspect.getdoc(function) if inspect.isroutine(function) else None
    body = {
        "function_name": name,
        "function_code": pack([buffer]),
        "serialized": True,
        "meta": {**_meta(metadata), "serde_identifier": buffer[:2]},
    }
    return _complete(body, description, public=public, group=group, ha_endpoint_id=ha_endpoint_id)


def source_registration(
    source: str,
    function_name: str,
    *,
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
    public: bool = False,
    group: object | None = None,
    ha_endpoint_id: object | None = None,
) -> dict[str, Any]:
    """Return the body that registers plain source code with its entry point."""
    body = {
        "function_name": function_name,
        "function_code": source,
        "serialized": False,
        "meta": _meta(metadata),
    }
    return _complete(body, description, public=public, group=group, ha_endpoint_id=ha_endpoint_id)


def _meta(given: dict[str, Any] | None) -> dict[str, Any]:
    """The version of Python that made the code; the SDK's is the stock release that we are like."""
    return given or {"python_version": platform.python_version(), "sdk_version": STOCK_LEVEL}


def _complete(
    body: dict[str, Any],
    description: str | None,
    *,
    public: bool,
    group: object | None,
    ha_endpoint_id: object | None,
) -> dict[str, Any]:
    if ha_endpoint_id is not None and (public or group is not None):
        raise ValueError("A function of a high-assurance endpoint cannot be shared: give no group and no public.")
    if description is not None:
        body["description"] = description
    if public:
        body["public"] = True
    if group is not None:
        body["group"] = str(group)
    if ha_endpoint_id is not None:
        body["ha_endpoint_id"] = str(ha_endpoint_id)
    return body
