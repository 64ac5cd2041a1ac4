"""What every user endpoint does at its start, done once by the process that forks them all.

What is compiled, looked up and cached here is shared by all user endpoints; what each does for the first time by
itself costs it time, and memory of its own: a page that a fork writes to is no longer shared. Nothing here is the
users', and nothing stays open.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import logging.handlers
import os

from mep.base.log import LineFormatter
from mep.base.secrets import Secret
from mep.base.together import code_run_by, put_together
from mep.broker.loop import new_loop
from mep.broker.rehearsal import rehearse as with_broker
from mep.config.user_endpoint import load_user_endpoint_config
from mep.endpoint import reports
from mep.engines.hostfacts import pool_facts
from mep.engines.worker import Bench, execute
from mep.serialize import Serializer
from mep.template import ReservedVariables, render, validate_options
from mep.wire.seal import TASK, Sealer
from mep.wire.signing import body_digest

#: For the look-up of the broker's name, and /proc.
_CODECS = ("idna", "ascii")
#: Ours that a user endpoint goes through from its first step on, most of them from beginning to end.
_PACKAGES = (
    "mep.daemon.request",
    "mep.endpoint",
    "mep.engines.thread",
    "mep.engines.worker",
    "mep.host.accounts",
    "mep.priv.become",
    "mep.priv.caps",
    "mep.priv.fds",
    "pika.adapters.asyncio_connection",
    "pika.adapters.utils.connection_workflow",
    "pika.adapters.utils.io_services_utils",
)
_ADAPTED_AFTER = 10  # CPython 3.11: quickened after 8 calls
_WITHIN_S = 5.0
_TEMPLATE = "engine:\n  type: ThreadPoolEngine\n  max_workers: {{ workers }}\n"


log = logging.getLogger(__name__)


def rehearse() -> None:
    """Do it, put what it ran together in memory, and do it until the interpreter has adapted the code to its use.

    Starts no thread, connects to nothing, reads /proc/meminfo. What fails here keeps nobody from work.
    """
    try:
        put_together(code_run_by(once), packages=_PACKAGES)
        for _ in range(_ADAPTED_AFTER):
            once()
    except Exception:
        log.exception("the rehearsal failed: each user endpoint will need more time and memory")


def once() -> None:
    """What is done: no more than once per kind, and all of it ours."""
    for name in _CODECS:
        codecs.lookup(name)
    options = {"workers": 1}
    validate_options(options, {"type": "object"})
    text = render(_TEMPLATE, options=options, reserved=ReservedVariables(), source="rehearsal")
    load_user_endpoint_config(text, source="rehearsal")
    reports.without_secrets(text)
    pool_facts("", 1, pending=0, running=0)
    _log_nowhere()
    _run_a_task()
    sealer = Sealer(Secret("00" * 32), TASK, body_digest(b""))
    sealer.open(sealer.seal(b""))
    loop = new_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(with_broker(), _WITHIN_S))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


def _log_nowhere() -> None:
    logger = logging.Logger("rehearsal")
    handler = logging.handlers.RotatingFileHandler(os.devnull, maxBytes=1, delay=True)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.info("%s", "rehearsal")
    handler.close()


def _run_a_task() -> None:
    serializer = Serializer()
    buffer = serializer.pack((serializer.serialize(_task),)) + serializer.pack_arguments((), {})
    execute(buffer, "rehearsal", (), Bench(uep_id="", owns_process=False))
    os.environ.pop("GC_TASK_UUID", None)


def _task() -> None:
    """What a user's function is to the rehearsal."""
