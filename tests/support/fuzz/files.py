"""Targets: what people and sites write: configuration, mapping, templates, options; mapping programs' answers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from mep.cli import files as cli_files
from mep.cli import state as cli_state
from mep.config.endpoint import load_endpoint_config
from mep.config.environment import load_user_environment
from mep.config.user_endpoint import load_user_endpoint_config
from mep.config.yamltext import load_yaml
from mep.daemon.files import LiveFiles
from mep.host.trusted import read_own
from mep.identity.mapping import Mapping
from mep.sdk.login_file import read_login
from mep.template import ReservedVariables, check_schema, render, validate_options
from support.fuzz.core import Target, as_json
from support.fuzz.wire import ENDPOINT, WHO

IDENTITIES = [{"id": WHO, "sub": WHO, "username": "alice@example.org", "status": "used"}]
EXPRESSIONS = {
    "DATA_TYPE": "expression_identity_mapping#1.0.0",
    "mappings": [{"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}", "ignore_case": True}],
}
EXTERNAL = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/map", "-v"]}
MAPPED = {"DATA_TYPE": "identity_mapping_output#1.0.0", "result": [{"id": WHO, "output": "alice"}]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "a": {"type": "array"}, "s": {"pattern": "^[a-z]*$"}},
}
CONFIG = b"""\
display_name: a site   # a comment
public: true
allowed_functions: [%s]
heartbeat_period: 30
limits: {memory: 2 GiB, pids: 100}
min_uid: 1000
pam: {enable: false}
multi_user: true
""" % WHO.encode()
USER_CONFIG = b"""\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  provider: {type: LocalProvider, init_blocks: 1, max_blocks: 1}
idle_heartbeats_soft: 10
endpoint_setup: "true"
"""


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """Files that are no UTF-8 are refused before (`read_trusted`): here they are what is left of them."""
    return lambda data: read(data.decode("utf-8", "replace"))


def _file(read: Callable[[Path], object], name: str = "file") -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory(prefix="mep-fuzz-") as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            return read(path)

    return run


def _json(data: bytes) -> Any:
    """What the wire's decoders leave of it: anything that JSON can say, in full."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _mapped(text: str, answer: bytes = b"") -> object:
    mapping = Mapping.parse(text, source="m", endpoint_id=ENDPOINT, run=lambda _argv, _stdin: answer)
    return mapping.lookup(IDENTITIES)


def _identities(data: bytes) -> object:
    """An identity set as a relay may sign it: any list of objects."""
    found = _json(data)
    mapping = Mapping.parse(json.dumps([EXPRESSIONS]), source="m", endpoint_id=ENDPOINT, run=lambda *_: b"")
    return mapping.lookup([one for one in found if isinstance(one, dict)] if isinstance(found, list) else [])


def _options(data: bytes) -> object:
    """What a user asks for: checked, then rendered; the values stay values."""
    found = _json(data)
    validate_options(found, SCHEMA)
    reserved = ReservedVariables(parent_config={}, user_runtime=found, mapped_identity={}, env={})
    text = render(
        "a: {{ n|default(1) }}\nb: {{ s|default('x') }}\nc: {{ a|default([]) }}\n",
        options=found,
        reserved=reserved,
        source="t",
    )
    return load_yaml(text, source="t")


def _schema(data: bytes) -> object:
    found = _json(data)
    check_schema(found)
    validate_options({"n": 1, "a": [1], "s": "x"}, found)
    return None


def _template(text: str) -> object:
    reserved = ReservedVariables(parent_config={}, user_runtime={}, mapped_identity={}, env={})
    return render(text, options={"n": 1, "s": "x"}, reserved=reserved, source="t")


def _daemon_schema(path: Path) -> object:
    files = LiveFiles.__new__(LiveFiles)
    files._privileged = False
    checks = SimpleNamespace(check_schema=lambda schema, source: check_schema(schema, source=source))
    files._parts = cast(Any, checks)
    return files._read_schema(path)


def _endpoint_id(path: Path) -> object:
    paths = SimpleNamespace(state_dir=path.parent, endpoint_json=path)
    found = cli_state.read_endpoint_id(cast(Any, paths))
    assert found == "" or len(found) == 36
    return found


TARGETS: list[Target] = [
    Target(
        "config.yaml",
        _text(lambda t: load_endpoint_config(t, source="c")),
        (
            "config/endpoint.py:load_endpoint_config",
            "config/parsing.py:build",
            "config/kinds.py:parse_size",
            "config/yamltext.py:load_yaml",
        ),
        (CONFIG,),
    ),
    Target(
        "user endpoint's configuration",
        _text(lambda t: load_user_endpoint_config(t, source="c")),
        ("config/user_endpoint.py:load_user_endpoint_config",),
        (USER_CONFIG,),
    ),
    Target(
        "user_environment.yaml",
        _text(lambda t: load_user_environment(t, source="c")),
        ("config/environment.py:load_user_environment",),
        (
            b"A: 1\nB: text\nPATH: /bin\n",
            b"A: 0x1F\n",
        ),
    ),
    Target(
        "mapping file",
        _text(_mapped),
        ("identity/mapping.py:Mapping.parse",),
        as_json([EXPRESSIONS, EXTERNAL], EXPRESSIONS),
    ),
    Target(
        "mapping program's answer",
        lambda data: _mapped(json.dumps(EXTERNAL), data),
        ("identity/documents.py:ExternalDocument._items",),
        as_json(MAPPED),
    ),
    Target("identity set", _identities, (), as_json(IDENTITIES)),
    Target("options", _options, (), as_json({"n": 1, "s": "x", "a": [1, "b", None]})),
    Target("schema", _schema, ("template/options.py:_validator",), as_json(SCHEMA)),
    Target(
        "template",
        _text(_template),
        ("template/quoting.py:_text",),
        (b"a: {{ n }}\n{% if n %}b: {{ s|tojson }}{% endif %}\nc: {{ s|shell_escape }}\n",),
    ),
    Target("schema file", _file(_daemon_schema), ("daemon/files.py:LiveFiles._read_schema",), as_json(SCHEMA)),
    Target(
        "schema file, by the command line",
        _file(lambda p: cli_files.parse_schema(read_own(p), source="s")),
        ("cli/files.py:parse_json", "cli/files.py:parse_schema", "host/trusted.py:read_own"),
        as_json(SCHEMA),
    ),
    Target(
        "endpoint.json, by the command line",
        _file(_endpoint_id, "endpoint.json"),
        ("cli/state.py:read_endpoint_id",),
        as_json({"endpoint_id": ENDPOINT}),
    ),
    Target(
        "stored login",
        _file(read_login),
        ("sdk/login_file.py:read_login",),
        as_json({"relay": "http://r", "token": "t", "username": "u"}),
    ),
]
