"""`import mep` is for everybody's notebook: it loads no server, no broker and no template engine."""

from __future__ import annotations

import json
import subprocess
import sys

SERVER_CODE = {
    "click", "daemon", "fastapi", "globus_identity_mapping", "jinja2", "jsonschema", "parsl", "pika", "psutil",
    "pydantic", "setproctitle", "sqlalchemy", "systemd", "uvicorn", "yaml",
}  # fmt: skip
SERVER_ROOMS = {
    "mep.admit", "mep.cli", "mep.config", "mep.daemon", "mep.endpoint", "mep.engines", "mep.host", "mep.identity",
    "mep.priv", "mep.relay", "mep.template",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after `statement`."""
    program = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_mep_loads_no_server_code() -> None:
    loaded = loaded_by("import mep")
    assert not loaded & (SERVER_CODE | SERVER_ROOMS)


def test_client_and_executor_load_no_server_code() -> None:
    loaded = loaded_by("from mep import Client, Executor")
    assert not loaded & ((SERVER_CODE - {"pika"}) | SERVER_ROOMS)


def test_command_line_help_loads_no_relay_and_no_daemon() -> None:
    loaded = loaded_by("import mep.cli")
    assert not loaded & {
        "mep.relay",
        "mep.daemon",
        "mep.endpoint",
        "mep.sdk",
        "fastapi",
        "parsl",
        "pika",
        "sqlalchemy",
    }
