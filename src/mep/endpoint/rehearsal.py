"""What every user endpoint does at its start, done once by the process that forks them all.

What is compiled, looked up and cached here is shared by all user endpoints; what each does for the first time by
itself costs it time, and memory of its own: a page that a fork writes to is no longer shared. Nothing here is the
users', and nothing stays open.
"""

from __future__ import annotations

import asyncio
import codecs
import logging

import pika

from mep.base.log import LineFormatter
from mep.base.secrets import Secret
from mep.broker.loop import new_loop
from mep.config.user_endpoint import load_user_endpoint_config
from mep.endpoint import reports
from mep.engines.hostfacts import pool_facts
from mep.template import ReservedVariables, render, validate_options
from mep.wire.seal import TASK, Sealer
from mep.wire.signing import body_digest

#: For the look-up of the broker's name, and /proc.
_CODECS = ("idna", "ascii")
_TEMPLATE = "engine:\n  type: ThreadPoolEngine\n  max_workers: {{ workers }}\n"


def rehearse() -> None:
    """Do it all once. Starts no thread, connects to nothing, reads /proc/meminfo."""
    for name in _CODECS:
        codecs.lookup(name)
    options = {"workers": 1}
    validate_options(options, {"type": "object"})
    text = render(_TEMPLATE, options=options, reserved=ReservedVariables(), source="rehearsal")
    load_user_endpoint_config(text, source="rehearsal")
    reports.without_secrets(text)
    pika.URLParameters("amqp://user:word@localhost:5672/%2F?heartbeat=30")
    pool_facts("", 1, pending=0, running=0)
    record = logging.makeLogRecord({"msg": "%s", "args": ("rehearsal",), "levelname": "INFO"})
    LineFormatter("%(asctime)s %(levelname)s %(message)s").format(record)
    sealer = Sealer(Secret("00" * 32), TASK, body_digest(b""))
    sealer.open(sealer.seal(b""))
    new_loop().close()
    asyncio.set_event_loop(None)
