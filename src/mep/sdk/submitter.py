"""From calls to accepted tasks: registers functions, sends batches, hands the futures to the result stream.

Holds no reference to the Executor that it works for, so that an Executor nobody needs any more can end it.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

from mep.base.ids import new_id
from mep.sdk.batch import Batch
from mep.sdk.client import Client
from mep.sdk.errors import ComputeAPIError
from mep.sdk.futures import ComputeFuture
from mep.sdk.http import not_understood
from mep.sdk.outbox import Call, Outbox, Route
from mep.sdk.pending import fail
from mep.sdk.stream import ResultStream

log = logging.getLogger(__name__)


class Submitter:
    """The engine room of an Executor: outbox and result stream. `own_group`: a task group id made here."""

    def __init__(
        self, client: Client, stream: ResultStream, *, batch_size: int, own_group: str, name: str
    ) -> None:
        self._client = client
        self.stream = stream
        self.outbox = Outbox(self._send, batch_size=batch_size, name=name)
        self._own_group = own_group
        self._renamed: dict[str, str] = {}  # our group id -> the one that a stock service made instead
        self._group_lock = threading.Lock()

    def group_of(self, wanted: str) -> str:
        """Return the task group id in use for the one that was asked for."""
        return self._renamed.get(wanted, wanted)

    def cancel_all(self) -> None:
        """Give up the calls that are not under way, and the results of those that were sent."""
        for call in self.outbox.take_back():
            call.future.cancel()
        self.outbox.wait_sent()
        for future in self.stream.pending.futures():
            future.cancel()

    def finish(self) -> None:
        """Send what waits; then, in the background, wait for the last result and end the stream."""
        self.outbox.close()
        threading.Thread(target=self._finish, name="mep-finish", daemon=True).start()

    def _finish(self) -> None:
        self.outbox.wait_sent()
        self.stream.pending.wait()
        self.stream.close()

    # ---- in a sender's thread ----

    def _send(self, route: Route, calls: list[Call]) -> None:
        """Send a batch; whatever goes wrong becomes the exception of its futures and of no others."""
        sent = [call for call in calls if not call.future.cancelled()]
        try:
            by_function = self._registered(sent)
            if by_function:
                with self.stream.pending.expecting():
                    self._submit(route, by_function)
        except Exception as error:
            log.debug("a batch of %d failed", len(sent), exc_info=True)
            fail((call.future for call in sent), error)

    def _registered(self, calls: list[Call]) -> dict[str, list[Call]]:
        """Group the calls by function id; those whose function cannot be registered fail alone."""
        by_function: dict[str, list[Call]] = {}
        failed: dict[int, Exception] = {}
        for call in calls:
            try:
                if (error := failed.get(id(call.function))) is not None:
                    raise error
                by_function.setdefault(call.function.registered(self._client), []).append(call)
            except Exception as error:  # noqa: BLE001 - as above
                failed[id(call.function)] = error
                fail([call.future], error)
        return by_function

    def _submit(self, route: Route, by_function: dict[str, list[Call]]) -> None:
        batch = Batch(
            self.group_of(route.task_group_id),
            json.loads(route.resource_specification or "null"),
            json.loads(route.user_endpoint_config or "null"),
            request_queue=True,
            result_serializers=route.result_serializers,
        )
        for function_id, calls in by_function.items():
            for call in calls:
                batch.add_payload(function_id, call.payload)
        answer = self._accepted(route, batch)
        group = str(answer.get("task_group_id") or batch.task_group_id)
        tasks: dict[str, ComputeFuture] = {}
        for function_id, calls in by_function.items():
            ids = answer["tasks"].get(function_id, [])
            for call, task_id in zip(calls, ids, strict=False):
                if task_id in tasks or self.stream.pending.find(task_id) is not None:
                    fail([call.future], not_understood("the submit", "it names a task twice"))
                    continue
                call.future.task_id, call.future.task_group_id = task_id, group
                tasks[task_id] = call.future
            missing = f"The relay accepted {len(ids)} of {len(calls)} tasks and did not say why."
            fail((call.future for call in calls[len(ids) :]), ComputeAPIError(200, "RELAY_REFUSED", missing))
        self.stream.track(group, tasks)

    def _accepted(self, route: Route, batch: Batch) -> dict[str, Any]:
        """Submit; where the service wants to make task groups itself, adopt the one that it makes."""
        key = new_id()
        try:
            return self._client.batch_run(route.endpoint_id, batch, idempotency_key=key)
        except ComputeAPIError as error:
            ours = route.task_group_id == self._own_group
            if not ours or error.code != "TASK_GROUP_NOT_FOUND":
                raise
        with self._group_lock:
            batch.task_group_id = self._renamed.get(route.task_group_id)
            answer = self._client.batch_run(route.endpoint_id, batch, idempotency_key=new_id())
            self._renamed[route.task_group_id] = str(answer.get("task_group_id") or batch.task_group_id)
        return answer
