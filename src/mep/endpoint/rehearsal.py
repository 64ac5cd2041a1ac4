"""A rehearsal in the monitor of what every user endpoint does first, with nobody's options.

Code that runs for the first time compiles patterns, fills caches and touches memory. Done once before the fork,
the children share all of it: a start takes a third of the time and half of the private memory. It sees the
administrator's files only, connects nowhere, starts nothing, and its failures mean nothing: options are missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mep.base.errors import MepError
from mep.base.secrets import Secret
from mep.broker.loop import new_loop
from mep.config.user_endpoint import load_user_endpoint_config
from mep.endpoint.links import Links
from mep.template import ReservedVariables, render, validate_options
from mep.wire import command, envelope
from mep.wire.command import AmqpCreds, QueueInfo, StartArguments, StartCommand
from mep.wire.envelope import Result, StatusReport, Task
from mep.wire.signing import body_digest

_NOBODY = "00000000-0000-4000-8000-000000000000"


def rehearse(
    template: str,
    *,
    source: str,
    includes: Mapping[str, str],
    schema: dict[str, Any] | None,
    endpoint_config: dict[str, Any],
) -> None:
    """Run the chain of `prepare` and the codecs once. Raises nothing; keeps nothing but warm code.

    Privilege: none needed; called by the monitor before it freezes its memory.
    """
    creds = _codecs()
    reserved = ReservedVariables(
        parent_config=endpoint_config, user_runtime={}, mapped_identity={"local": {}, "globus": {}}, env={}
    )
    for options in ({}, {"rehearsal": [1, "text", None]}):
        try:
            if schema is not None:
                validate_options(options, schema)
        except MepError:
            pass
    try:
        text = render(template, options={}, reserved=reserved, source=source, includes=dict(includes))
        load_user_endpoint_config(text, source=source)
    except MepError:
        pass  # the template wants options
    _loop(creds)


def _codecs() -> AmqpCreds:
    """Encode and decode one of each message; return what the start command carried."""
    queue = QueueInfo(connection_url=Secret("amqp://nobody:none@127.0.0.1/"), queue="none")
    creds = AmqpCreds(
        endpoint_id=_NOBODY, task_queue_info=queue, result_queue_info=queue, heartbeat_queue_info=queue
    )
    start = StartCommand(
        command=command.START,
        kwargs=StartArguments(name="rehearsal", amqp_creds=creds),
        globus_effective_identity=_NOBODY,
        globus_identity_set=[],
    )
    body = command.encode(start)
    body_digest(body)
    for message in (
        Task(task_id=_NOBODY, task_buffer=""),
        Result(task_id=_NOBODY, data=""),
        StatusReport(endpoint_id=_NOBODY),
    ):
        envelope.decode(envelope.encode(message))
    return command.decode(body).kwargs.amqp_creds


def _loop(creds: AmqpCreds) -> None:
    """Turn an event loop once."""
    loop = new_loop()

    async def turn() -> None:
        Links(creds, name="rehearsal", amqp_port=None, on_state=lambda _state: None)
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(turn())
    finally:
        loop.close()
        asyncio.set_event_loop(None)
