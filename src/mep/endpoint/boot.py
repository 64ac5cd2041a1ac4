"""The user endpoint's first and last steps: called in the forked child, as the user, after the drop.

What this module imports at its top the monitor imports before it forks, so that all user endpoints share it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Iterable

from mep.base.codes import Code, next_step
from mep.base.errors import HostError, InputError, MepError, RefusedError, ServiceError
from mep.base.exits import Exit
from mep.broker.loop import new_loop
from mep.endpoint import hooks
from mep.endpoint.home import Home, check_interpreter, make_home
from mep.endpoint.limits import lower_limits
from mep.endpoint.monitorlink import tell_failed
from mep.endpoint.prepare import Plan, prepare
from mep.endpoint.service import UserEndpoint
from mep.endpoint.title import show_title
from mep.engines import registry
from mep.wire.launch import Launch
from mep.wire.privsep import Failed, cap_text

log = logging.getLogger(__name__)

_STATUS: dict[type[MepError], Exit] = {
    InputError: Exit.DATA,
    RefusedError: Exit.NO_PERMISSION,
    HostError: Exit.UNAVAILABLE,
    ServiceError: Exit.TRY_AGAIN,
}
#: Engines whose workers are started as programs of their own.
_EXECUTING_ENGINES = ("GlobusComputeEngine", "GlobusMPIEngine")


def preload(engine_names: Iterable[str]) -> None:
    """Import what these engines need; the monitor calls it before it forks."""
    registry.preload(engine_names)


def run(launch: Launch) -> int:
    """Be the user endpoint that `launch` describes, until its end. Returns the exit status; raises nothing.

    A failure is told to the monitor with a code, a text for the user and one for the administrator.
    """
    try:
        return _run(launch)
    except MepError as error:
        log.error("%s", error.for_admin())
        _tell(launch, error.code, error.user_text + _step(error), error.admin_text)
        return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), Exit.FAILED)
    except BaseException as error:  # noqa: BLE001 - the last net: nothing may leave this process without a word
        text = traceback.format_exc()
        log.critical("%s", text)
        user = f"The user endpoint failed unexpectedly ({type(error).__name__})."
        _tell(launch, Code.INTERNAL, user + " " + next_step(Code.INTERNAL).user, text)
        return Exit.SOFTWARE


def _run(launch: Launch) -> int:
    asyncio._set_running_loop(None)  # the forking process may have been inside its own loop
    show_title(launch, "starting")
    home = make_home(launch.home, launch.state_dir, launch.uep_id)
    plan = prepare(launch)
    home.redirect(level=logging.DEBUG if plan.config.debug else logging.INFO)
    log.info("user endpoint %s (request %s) as uid %d", launch.uep_id, launch.request_id, os.getuid())
    lower_limits(launch, plan.config.limits)
    if plan.config.engine.type in _EXECUTING_ENGINES:
        check_interpreter(sys.executable)
    hooks.run_setup(plan.config.endpoint_setup, home)
    show_title(launch)
    try:
        return _serve(launch, plan, home)
    finally:
        hooks.run_teardown(plan.config.endpoint_teardown, home)


def _serve(launch: Launch, plan: Plan, home: Home) -> int:
    loop = new_loop()

    async def serve() -> int:
        return await UserEndpoint(launch, plan, home).run()

    try:
        return loop.run_until_complete(serve())
    finally:
        loop.close()


def _step(error: MepError) -> str:
    return f" {error.step}" if error.step else ""


def _tell(launch: Launch, code: Code, user_text: str, admin_text: str) -> None:
    tell_failed(
        launch.monitor_fd,
        Failed(code=code.value, user_text=cap_text(user_text), admin_text=cap_text(admin_text)),
    )
