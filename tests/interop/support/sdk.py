"""An SDK in a process of its own, stock or ours, seen from a test."""

from __future__ import annotations

import contextlib
import json
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.support.corner import Corner, Program
from interop.support.places import DRIVER, our_environment, our_python, stock_bin
from interop.support.web import URL


class SdkError(AssertionError):
    """The driver's request raised; `kind` is the exception's class, `text` its text."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"{answer.get('error')}: {answer.get('text')}")
        self.kind, self.text, self.answer = answer.get("error", ""), answer.get("text", ""), answer


@dataclass
class SdkProcess:
    """One driver process; identities share it. `tokens` is identity -> bearer token."""

    which: str
    program: Program
    tokens: dict[str, str]

    def ask(self, verb: str, *, within_s: float = 150.0, **request: Any) -> Any:
        """Return the driver's answer; SdkError if the request raised there."""
        process = self.program.process
        assert process.stdin is not None
        assert process.stdout is not None
        identity = request.get("identity")
        if identity is not None and identity in self.tokens:
            request["token"] = self.tokens[identity]
        with contextlib.suppress(BrokenPipeError):  # then it died: said below
            process.stdin.write(json.dumps({"verb": verb, **request}).encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], within_s)
        line = process.stdout.readline() if ready else b""
        if not line:
            why = "gave no answer" if not ready else "died"
            raise AssertionError(f"the {self.which} SDK {why} at {verb}:\n{self.program.tail()}")
        answer = json.loads(line)
        if not answer["ok"]:
            raise SdkError(answer)
        return answer["answer"]

    def call(self, function: str, *arguments: Any, **request: Any) -> Any:
        """Submit one call and return its value; SdkError if its future failed."""
        outcome = self.ask("call", function=function, arguments=list(arguments), **request)["outcomes"][0]
        if "error" in outcome:
            raise SdkError(outcome)
        return outcome["value"]

    def stop(self) -> None:
        self.program.stop(within_s=5)


def start_sdk(
    corner: Corner,
    which: str,
    tokens: dict[str, str],
    *,
    env: dict[str, str] | None = None,
    name: str = "",
    python: Path | None = None,
) -> SdkProcess:
    """Start a driver for `which` ("stock" or "mep"); credentials in `env` serve clients without a token."""
    interpreter = str(python or (stock_bin() / "python" if which == "stock" else our_python()))
    more = {} if which == "stock" else our_environment()
    label = f"sdk-{which}{name}"
    program = corner.start(
        [interpreter, "-u", str(DRIVER), which],
        env={
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{URL}/",
            "GLOBUS_COMPUTE_USER_DIR": str(corner.root / f"{label}-home"),
            "MEP_RELAY_URL": URL,
            **more,
            **(env or {}),
        },
        log=label,
        pipes=True,
    )
    return SdkProcess(which, program, tokens)
