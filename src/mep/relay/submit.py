"""A submit: checked, stored, handed to the broker, answered. The relay's hot path.

Order: checks without effect; tasks, group and answer stored in one commit; then published with confirms; then
answered. The user endpoint's start command goes out beside the tasks, and nobody waits for it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from sqlalchemy import Connection

from mep.base.ids import EndpointId, IdentityId, derive_uep_id, new_id
from mep.relay import metrics
from mep.relay.amqp import OutgoingTask
from mep.relay.directory import Directory, checked_id
from mep.relay.dispatch import Dispatch
from mep.relay.errors import HttpError, function_not_found, malformed
from mep.relay.fleet import Fleet, Uep
from mep.relay.repeats import Attempt
from mep.relay.results import Results
from mep.relay.seals import Seals
from mep.relay.settings import Settings
from mep.relay.store import Store, tasks, ueps
from mep.relay.store.accounts import Identity
from mep.relay.store.endpoints import Endpoint
from mep.relay.store.functions import Function
from mep.relay.store.tasks import Group, StoredSubmit
from mep.relay.store.ueps import UepRecord
from mep.template.options import validate_options
from mep.wire import envelope, sealed
from mep.wire.envelope import Task
from mep.wire.rest import SubmitAnswer
from mep.wire.seal import Sealer
from mep.wire.sealed import SealedTask

log = logging.getLogger(__name__)

_NULL: Final = (b"", b"null")


# for the document; the submitter checks
_UUID: Final = Meta(extra_json_schema={"format": "uuid"})
_OBJECT: Final = Meta(extra_json_schema={"type": ["object", "null"]})
_SOME: Final = Meta(extra_json_schema={"minItems": 1})


class SubmitBody(msgspec.Struct):
    """POST /v3/endpoints/{id}/submit. Options and runtime stay as they came until something needs them."""

    tasks: Annotated[
        dict[Annotated[str, _UUID], Annotated[list[str], _SOME]], Meta(extra_json_schema={"minProperties": 1})
    ]
    task_group_id: Annotated[str, _UUID] | None = None
    create_queue: bool = False
    user_endpoint_config: Annotated[msgspec.Raw, _OBJECT] = msgspec.field(default_factory=msgspec.Raw)
    resource_specification: dict[str, Any] | None = None
    result_serializers: list[str] | None = None
    user_runtime: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_decoder = msgspec.json.Decoder(SubmitBody)
_encode = msgspec.json.Encoder().encode


def decode(body: bytes) -> SubmitBody:
    """Return the request in `body`; HttpError 422 names path and wanted type."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise HttpError(422, "SEMANTICALLY_INVALID", f"The submit request is not valid: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"The submit request is not JSON: {error}.") from None


class Submitter:
    """Accepts tasks."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        directory: Directory,
        dispatch: Dispatch,
        results: Results,
        seals: Seals,
        settings: Settings,
    ) -> None:
        self._store, self._fleet, self._directory = store, fleet, directory
        self._dispatch, self._results, self._seals, self._settings = dispatch, results, seals, settings
        self._known: dict[tuple[str, float, str, bytes, bytes], UepRecord] = {}

    async def submit(
        self,
        identity: Identity,
        endpoint_id: str,
        body: SubmitBody,
        attempt: Attempt,
        request_id: str,
        *,
        opens: bool = False,
    ) -> bytes:
        """Accept the tasks in `body`; return the answer's JSON. Sets `attempt.stored`. `opens`: the caller opens
        sealed results."""
        endpoint = await self._directory.usable(endpoint_id, identity)
        functions = await self._functions(endpoint, identity, body)
        record = self._uep_record(endpoint, identity, body)
        group, group_changed = await self._group(identity, body, opens=opens)
        uep = self._fleet.uep(record, endpoint)
        ids = {function_id: [new_id() for _ in payloads] for function_id, payloads in body.tasks.items()}
        answer = _encode(
            SubmitAnswer(tasks=ids, task_group_id=group.id, request_id=request_id, endpoint_id=endpoint.id)
        )
        submit = StoredSubmit(
            key=attempt.key,
            body_sha256=attempt.body_sha256,
            answer=answer.decode(),
            created=time.time(),
            published=False,
        )
        async with self._dispatch.turn(uep):
            self._dispatch.prepare(uep, group)
            written = self._store.write(_storing(uep, group, ids, submit, group_changed=group_changed))
            messages = self._messages(uep, ids, body, functions)  # encoded while the commit runs
            await written
            uep.stored = True
            attempt.stored = submit
            count = len(messages)
            metrics.TASKS.inc(count)
            self._dispatch.accepted(uep, count, request_id)
            await self._dispatch.publish(uep, group, messages)
        attempt.stored = msgspec.structs.replace(submit, published=True)
        log.info(
            "request %s: %d tasks of %s for user endpoint %s", request_id, count, identity.username, record.id
        )
        return answer

    async def publish_again(
        self, identity: Identity, endpoint_id: str, body: SubmitBody, stored: StoredSubmit
    ) -> None:
        """Hand to the broker what an earlier attempt stored: the repeat brought the payloads along. A task that
        has its outcome by now (nobody came, say) is not run."""
        endpoint = await self._directory.usable(endpoint_id, identity)
        answer = msgspec.json.decode(stored.answer, type=SubmitAnswer)
        functions = await self._functions(endpoint, identity, body)
        record = self._uep_record(endpoint, identity, body)
        told = msgspec.structs.replace(body, task_group_id=answer.task_group_id)
        group, _ = await self._group(identity, told, opens=True)
        uep = self._fleet.uep(record, endpoint)
        async with self._dispatch.turn(uep):
            messages = self._messages(uep, answer.tasks, body, functions)
            ids = [message.task_id for message in messages]
            known = await self._store.read_much(lambda c: tasks.states(c, ids))
            left = [m for m in messages if (state := known.get(m.task_id)) is not None and state.done is None]
            self._dispatch.accepted(uep, 0, answer.request_id)
            await self._dispatch.publish(uep, group, left)

    # ---- inside ----

    def _messages(
        self, uep: Uep, ids: Mapping[str, list[str]], body: SubmitBody, functions: Mapping[str, Function]
    ) -> list[OutgoingTask]:
        """Return the tasks as they go out: sealed for a user endpoint that opens them, else in stock form."""
        seals = uep.core.seals
        sealer = self._seals.tasks(uep.id, seals) if seals else None
        made = _plain if sealer is None else partial(_sealed, sealer)
        return [
            made(task_id, functions[function_id], payload, body)
            for function_id, payloads in body.tasks.items()
            for task_id, payload in zip(ids[function_id], payloads, strict=True)
        ]

    async def _functions(self, endpoint: Endpoint, identity: Identity, body: SubmitBody) -> dict[str, Function]:
        """Return the functions asked for; HttpError if one is unknown, not the caller's or not permitted here."""
        if not body.tasks or not any(body.tasks.values()):
            raise HttpError(422, "SEMANTICALLY_INVALID", "The submit request has no tasks.")
        found = {}
        for function_id, payloads in body.tasks.items():
            if (
                endpoint.allowed_functions is not None
                and checked_id(function_id) not in endpoint.allowed_functions
            ):
                raise HttpError(
                    403,
                    "FUNCTION_NOT_PERMITTED",
                    f"Function {function_id} not permitted on endpoint {endpoint.id}. "
                    "Ask its administrator for the list of allowed functions.",
                )
            function = await self._directory.function(function_id)
            if function is None:
                raise function_not_found(function_id)
            if not function.public and function.owner_id != identity.id:
                raise HttpError(
                    403, "FUNCTION_ACCESS_FORBIDDEN", f"Function {function_id} is not yours and not public."
                )
            room = self._settings.max_task_bytes - len(function.code)
            for payload in payloads:
                if len(payload) > room:
                    raise HttpError(
                        413,
                        "TASK_PAYLOAD_TOO_LARGE",
                        f"A task of {len(payload) + len(function.code)} bytes is too large: "
                        f"{self._settings.max_task_bytes} are allowed. Put the data in a file and send its path.",
                    )
            found[function_id] = function
        return found

    def _uep_record(self, endpoint: Endpoint, identity: Identity, body: SubmitBody) -> UepRecord:
        """Return which user endpoint serves this; InputError if the options are not allowed."""
        options = bytes(body.user_endpoint_config)
        if not endpoint.uses_commands:
            if options not in _NULL and options != b"{}":
                raise HttpError(
                    422,
                    "SEMANTICALLY_INVALID",
                    f"Endpoint {endpoint.id} serves its owner only and takes no user_endpoint_config.",
                )
            return UepRecord(id=endpoint.id, endpoint_id=endpoint.id, identity_id=endpoint.owner_id)
        runtime = bytes(body.user_runtime)
        key = (endpoint.id, endpoint.registered, identity.id, options, runtime)
        known = self._known.get(key)
        if known is None:
            known = _derive(endpoint, identity, options, runtime)
            if len(self._known) > 5000:
                self._known.clear()
            self._known[key] = known
        return known

    async def open_group(self, group: Group) -> None:
        """Somebody who cannot open seals uses it: from now on its results are plain, also those that wait."""
        plain = msgspec.structs.replace(group, seals=False)
        await self._store.write(lambda c: tasks.add_group(c, plain))
        self._directory.forget(group.id)
        if group.has_queue:
            await self._results.forward_again(plain)
        log.info("task group %s: its results are not sealed from now on", group.id)

    async def _group(self, identity: Identity, body: SubmitBody, *, opens: bool) -> tuple[Group, bool]:
        """Return the task group and whether it is new, or changed."""
        if body.task_group_id is None:
            return Group(new_id(), identity.id, body.create_queue, time.time(), opens), True
        group_id = checked_id(body.task_group_id)
        found = await self._directory.group(group_id)
        if found is None:
            return Group(group_id, identity.id, body.create_queue, time.time(), opens), True
        if found.identity_id != identity.id:
            raise HttpError(403, "TASK_GROUP_ACCESS_FORBIDDEN", f"Task group {group_id} belongs to somebody else.")
        if found.seals and not opens:
            await self.open_group(found)
            found = msgspec.structs.replace(found, seals=False)
        if body.create_queue and not found.has_queue:
            return msgspec.structs.replace(found, has_queue=True), True
        return found, False


def _derive(endpoint: Endpoint, identity: Identity, options_json: bytes, runtime_json: bytes) -> UepRecord:
    options = _value("user_endpoint_config", options_json)
    runtime = _value("user_runtime", runtime_json)
    validate_options(options, endpoint.schema or None)
    uep_id = derive_uep_id(EndpointId(endpoint.id), IdentityId(identity.id), options, _what_selects(runtime))
    return UepRecord(
        id=uep_id,
        endpoint_id=endpoint.id,
        identity_id=identity.id,
        options=json.dumps(options),
        runtime=json.dumps(runtime if isinstance(runtime, dict) else {}),
        created=time.time(),
    )


def _value(name: str, text: bytes) -> Any:
    """Return what stands in a raw field: its syntax was checked, but not that its numbers are numbers to us."""
    if text in _NULL:
        return {}
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(422, "SEMANTICALLY_INVALID", f"The submit's {name} is not valid: {error}.") from None


def _what_selects(runtime: Any) -> dict[str, Any]:
    """Return the part of `user_runtime` that makes another user endpoint: what templates choose an environment by.

    Not the caller's machine: the same person with the same options from a laptop and from a cluster shares one
    user endpoint, and one batch job.
    """
    if not isinstance(runtime, dict):
        return {}
    python = runtime.get("python")
    version = (
        python.get("version") if isinstance(python, dict) else str(runtime.get("python_version", "")).split(" ")[0]
    )
    return {"python": version, "sdk": runtime.get("globus_compute_sdk_version")}


def _storing(
    uep: Uep, group: Group, ids: Mapping[str, list[str]], submit: StoredSubmit, *, group_changed: bool
) -> Any:
    told = {"group_id": group.id, "uep_id": uep.id, "created": submit.created}
    told["assured"] = int(uep.core.high_assurance)
    rows = [{"id": task, "function_id": function, **told} for function, some in ids.items() for task in some]

    def job(connection: Connection) -> None:
        if not uep.stored:
            ueps.add(connection, uep.record)
        tasks.insert_submit(connection, group=group, rows=rows, submit=submit, group_changed=group_changed)

    return job


def _plain(task_id: str, function: Function, payload: str, body: SubmitBody) -> OutgoingTask:
    return OutgoingTask(
        task_id,
        function.id,
        envelope.encode(Task(task_id=task_id, task_buffer=function.code + payload)),
        body.resource_specification,
        body.result_serializers,
    )


def _sealed(sealer: Sealer, task_id: str, function: Function, payload: str, body: SubmitBody) -> OutgoingTask:
    task = SealedTask(
        task_id,
        function.id,
        function.code + payload,
        body.resource_specification or {},
        body.result_serializers or [],
    )
    return OutgoingTask(task_id, function.id, sealer.seal(sealed.encode(task)), sealed=True)
