"""An endpoint's directory with the stock names of files: both the stock endpoint and ours run from it as it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = """\
display_name: {name}
local_compute_services: true
heartbeat_period: {heartbeat_s}
"""

PRIVILEGED = """\
email: admin@example.org
identity_mapping_config_path: {mapping}
"""

#: Both sides quote user strings as JSON, so options that steer the template are booleans and numbers.
TEMPLATE = """\
display_name: "for Python {{ _GC.user_runtime.python.version_tuple | join('.') }}"
heartbeat_period: {{ _GC.parent_config.heartbeat_period }}
idle_heartbeats_soft: {{ idle_heartbeats | default(0) }}
{% if site_error | default(false) -%}
engine:
  type: NoSuchEngine
{%- elif parsl | default(false) -%}
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  encrypted: {{ encrypted | default(true) }}
  max_workers_per_node: {{ workers | default(1) }}
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1
{%- else -%}
engine:
  type: {{ engine | default('ThreadPoolEngine') }}
  max_workers: {{ workers | default(4) }}
{%- endif %}
"""

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "engine": {"type": "string"},
        "workers": {"type": "integer", "minimum": 1, "maximum": 8},
        "idle_heartbeats": {"type": "integer", "minimum": 0},
        "parsl": {"type": "boolean"},
        "encrypted": {"type": "boolean"},
        "site_error": {"type": "boolean"},
        "label": {"type": "string"},
    },
    "additionalProperties": False,
}

MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}],
    }
]

#: an identity that MAPPING gives no account
STRANGER = "mallory@elsewhere.example"

ENVIRONMENT = "INTEROP_SITE: example-site\n"


@dataclass(frozen=True)
class Directory:
    """`parent` is the stock `.globus_compute` (our --config-dir); `path` the endpoint's own directory in it."""

    parent: Path
    name: str

    @property
    def path(self) -> Path:
        return self.parent / self.name

    @property
    def template(self) -> Path:
        return self.path / "user_config_template.yaml.j2"


def write_directory(parent: Path, name: str, *, owner: str = "root", heartbeat_s: int = 5) -> Directory:
    """Write all files of an endpoint. Root's serves the @example.org identities, another's only its owner."""
    directory = Directory(parent, name)
    directory.path.mkdir(parents=True)
    mapping = directory.path / "identity_mapping_config.json"
    config = CONFIG.format(name=name, heartbeat_s=heartbeat_s)
    if owner == "root":
        mapping.write_text(json.dumps(MAPPING))
        config += PRIVILEGED.format(mapping=mapping)
    (directory.path / "config.yaml").write_text(config)
    directory.template.write_text(TEMPLATE)
    (directory.path / "user_config_schema.json").write_text(json.dumps(SCHEMA))
    (directory.path / "user_environment.yaml").write_text(ENVIRONMENT)
    for path in (parent, directory.path, *directory.path.iterdir()):
        shutil.chown(path, owner, owner)
    return directory
