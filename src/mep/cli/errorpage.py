"""The tables of docs/admin/errors.md, from the codes' own declarations."""

from __future__ import annotations

from mep.base.codes import Code, next_step
from mep.base.exits import Exit
from mep.base.meanings import MEANINGS
from mep.cli.failure import exit_for

_EXIT_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "it did not work; the message says why",
    Exit.USAGE: "wrong arguments",
    Exit.NOT_RUNNING: "the endpoint is not running",
    Exit.DATA: "options, template or schema are wrong",
    Exit.UNAVAILABLE: "the relay refuses, or does not know the thing",
    Exit.SOFTWARE: "a defect of mep",
    Exit.TRY_AGAIN: "the network or a service is away; trying again may help",
    Exit.NO_PERMISSION: "not logged in, not allowed, or a file that others can change",
    Exit.CONFIG: "a configuration file is wrong",
}


def codes_table() -> str:
    """Return one row per code: meaning, what a user and an administrator can do, exit status of commands."""
    lines = ["| code | meaning | the user can | the administrator can | exit |", "|---|---|---|---|---|"]
    for code in Code:
        step = next_step(code)
        cells = (f"`{code.value}`", MEANINGS[code], step.user, step.admin, str(int(exit_for(code))))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def exits_table() -> str:
    """Return one row per exit status."""
    rows = [f"| {int(status)} | {_EXIT_MEANINGS[status]} |" for status in Exit]
    return "\n".join(["| status | meaning |", "|---|---|", *rows]) + "\n"
