"""What an endpoint's folders say about it, for commands that do not talk to its daemon."""

from __future__ import annotations

import json

from mep.base.ids import is_uuid
from mep.config.paths import EndpointPaths


def read_endpoint_id(paths: EndpointPaths) -> str:
    """Return the id the endpoint is registered under, or "" if it never was (or we may not look)."""
    for path in (paths.state_dir / "endpoint.json", paths.endpoint_json):
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        found = document.get("endpoint_id") if isinstance(document, dict) else None
        if is_uuid(found):
            return str(found)
    return ""
