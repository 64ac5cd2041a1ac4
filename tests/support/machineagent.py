"""Inside the virtual machine: does what the test outside says, one JSON line at a time. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Call the test (its port stands in the kernel's command line) and obey until it hangs up."""
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    with socket.create_connection(("10.0.2.2", int(words["agent_port"]))) as sock, sock.makefile("rw") as lines:
        for line in lines:
            try:
                answer = _ORDERS[(order := json.loads(line)).pop("do")](**order)
            except Exception as error:  # noqa: BLE001 - the test decides what it means
                answer = {"error": f"{type(error).__name__}: {error}"}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


def _run(argv: list[str], env: dict[str, str], within_s: float) -> dict[str, Any]:
    done = subprocess.run(
        argv, env=dict(os.environ) | env, capture_output=True, text=True, timeout=within_s, check=False
    )
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def _read(path: str) -> dict[str, Any]:
    return {"text": Path(path).read_text()}


def _write(path: str, text: str) -> dict[str, Any]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return {}


def _evaluate(code: str) -> dict[str, Any]:
    """Run `code` here (a new interpreter takes seconds); its variable `answer` is the answer."""
    names: dict[str, Any] = {}
    exec(code, names)
    return {"answer": names.get("answer")}


_ORDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": _run,
    "read": _read,
    "write": _write,
    "evaluate": _evaluate,
}

if __name__ == "__main__":
    main()
