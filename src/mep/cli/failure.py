"""From any exception to one text on stderr and an exit status."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Final

import click

from mep.base.codes import NEXT_STEPS, Code, NextStep, next_step
from mep.base.errors import MepError
from mep.base.exits import Exit
from mep.base.log import stderr_is_journal

_REPORT: Final = "This is a defect of mep: please report it, with what you did and the output of `mep diagnose`."

#: Exit status by code; a code that is absent exits with FAILED.
EXITS: Final[dict[Code, Exit]] = {
    Code.USAGE: Exit.USAGE,
    Code.NOT_RUNNING: Exit.NOT_RUNNING,
    **dict.fromkeys(
        (
            Code.OPTIONS_INVALID,
            Code.OPTIONS_RESERVED,
            Code.SCHEMA_INVALID,
            Code.TEMPLATE_INVALID,
            Code.TEMPLATE_UNDEFINED,
            Code.ENGINE_UNKNOWN,
            Code.INVALID_REQUEST,
        ),
        Exit.DATA,
    ),
    **dict.fromkeys((Code.CONFIG_INVALID, Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_UNREADABLE), Exit.CONFIG),
    **dict.fromkeys(
        (Code.RELAY_REFUSED, Code.BROKER_REFUSED, Code.LOCKED, Code.NOT_FOUND, Code.ENDPOINT_OFFLINE),
        Exit.UNAVAILABLE,
    ),
    **dict.fromkeys((Code.RELAY_UNREACHABLE, Code.BROKER_UNREACHABLE), Exit.TRY_AGAIN),
    **dict.fromkeys(
        (Code.AUTH_REQUIRED, Code.FORBIDDEN, Code.NOT_LOGGED_IN, Code.CONFIG_UNTRUSTED), Exit.NO_PERMISSION
    ),
    Code.INTERNAL: Exit.SOFTWARE,
}


def exit_for(code: Code) -> Exit:
    """Return the exit status of a command that ended by `code`."""
    return EXITS.get(code, Exit.FAILED)


def exit_status(run: Callable[[], object]) -> int:
    """Return the exit status of `run`, having told stderr what went wrong, if anything did.

    An int that `run` returns is the status. A traceback is shown only with MEP_DEBUG=1.
    """
    try:
        result = run()
    except MepError as error:
        _debug_traceback()
        click.echo(f"{_priority()}mep: {describe(error)}", err=True)
        return exit_for(error.code)
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("mep: interrupted", err=True)
        return 130
    except PermissionError as error:
        _debug_traceback()
        click.echo(f"mep: {Code.CONFIG_UNREADABLE}: {error.filename}: {error.strerror}. {_root_hint()}", err=True)
        return Exit.NO_PERMISSION
    except Exception as error:  # noqa: BLE001 - the last face before the person: every failure becomes one text
        _debug_traceback()
        click.echo(f"mep: {Code.INTERNAL}: {type(error).__name__}: {error}. {_REPORT}", err=True)
        return Exit.SOFTWARE
    return result if isinstance(result, int) else Exit.OK


def describe(error: MepError) -> str:
    """Return all of it for the person at the terminal, and one next step.

    The step that was given with the error wins; else the administrator's for this code; else the user's.
    """
    steps = NEXT_STEPS.get(error.code, NextStep("", ""))
    given = error.step if error.step != next_step(error.code).user else None
    step = (steps.admin or steps.user) if given is None else given
    # whoever reads it at a terminal gave the options; only in a log are their values none of the reader's business
    text = error.user_text if error.code == Code.OPTIONS_INVALID else error.admin_text
    return f"{error.code.value}: {text}" + (f" {step}" if step else "")


def _debug_traceback() -> None:
    if os.environ.get("MEP_DEBUG") == "1":
        traceback.print_exc()


def _priority() -> str:
    """Return what marks an error where the journal reads (sd-daemon(3)), as in `systemctl start mep@NAME`."""
    return "<3>" if stderr_is_journal() else ""


def _root_hint() -> str:
    return "Check the permissions." if os.geteuid() == 0 else "Try it as root, or as the file's owner."
