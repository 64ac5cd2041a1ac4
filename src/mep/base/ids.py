"""Identifiers: one type per kind, and the two that are derived."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any, NewType

EndpointId = NewType("EndpointId", str)
UepId = NewType("UepId", str)  # a user endpoint's id; stable per (endpoint, identity, options, runtime)
IdentityId = NewType("IdentityId", str)
RequestId = NewType("RequestId", str)  # one start request, end to end
TaskId = NewType("TaskId", str)
FunctionId = NewType("FunctionId", str)
TaskGroupId = NewType("TaskGroupId", str)

_UEP_NAMESPACE = uuid.UUID("9f1c7b0e-6a54-5b7e-9d0c-2d8a6f6a3c11")


def new_id() -> str:
    """Return a fresh random id (UUID 4, lower case, with dashes)."""
    return str(uuid.uuid4())


def is_uuid(text: object) -> bool:
    """Tell whether `text` is a UUID in the canonical lower-case spelling (as used in paths and queue names)."""
    if not isinstance(text, str) or len(text) != 36:
        return False
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def derive_uep_id(endpoint: EndpointId, identity: IdentityId, options: Any, runtime: Any) -> UepId:
    """Return the stable id of the user endpoint that serves these options for this identity.

    `options` and `runtime` are JSON values; key order does not matter. Same input, same id, on every relay.
    """
    canonical = json.dumps([endpoint, identity, options, runtime], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return UepId(str(uuid.uuid5(_UEP_NAMESPACE, digest)))
