"""Tasks that go out in one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mep.sdk.runtime import user_runtime
from mep.serialize import Serializer, StrategyLike, find_strategy


class Batch:
    """Calls of registered functions, for `Client.batch_run`. Arguments are serialized when they are added."""

    def __init__(
        self,
        task_group_id: object | None = None,
        resource_specification: dict[str, Any] | None = None,
        user_endpoint_config: dict[str, Any] | None = None,
        request_queue: bool = False,  # noqa: FBT001, FBT002 - stock signature
        serializer: Serializer | None = None,
        result_serializers: Iterable[StrategyLike] | None = None,
    ) -> None:
        self.task_group_id = None if task_group_id is None else str(task_group_id)
        self.resource_specification = resource_specification
        self.user_endpoint_config = user_endpoint_config
        self.create_websocket_queue = request_queue
        self.result_serializers = serializer_paths(result_serializers)
        self.tasks: dict[str, list[str]] = {}
        self._serializer = serializer or Serializer()

    def add(
        self, function_id: object, args: Sequence[Any] | None = None, kwargs: dict[str, Any] | None = None
    ) -> None:
        """Add one call; SerializationError if the arguments cannot become text."""
        self.add_payload(str(function_id), self._serializer.pack_arguments(args or (), kwargs or {}))

    def add_payload(self, function_id: str, payload: str) -> None:
        """Add one call whose arguments are serialized and packed already."""
        self.tasks.setdefault(function_id, []).append(payload)

    def __len__(self) -> int:
        return sum(len(payloads) for payloads in self.tasks.values())

    def prepare(self) -> dict[str, Any]:
        """Return the body of the submit request (protocol: submit)."""
        body: dict[str, Any] = {
            "tasks": self.tasks,
            "create_queue": self.create_websocket_queue,
            "user_runtime": user_runtime(),
        }
        if self.task_group_id is not None:
            body["task_group_id"] = self.task_group_id
        if self.user_endpoint_config:
            body["user_endpoint_config"] = self.user_endpoint_config
        if self.resource_specification:
            body["resource_specification"] = self.resource_specification
        if self.result_serializers:
            body["result_serializers"] = self.result_serializers
        return body


def serializer_paths(wanted: Iterable[StrategyLike] | None) -> list[str] | None:
    """Return the stock import paths of these strategies, which every endpoint knows; SerdeError for an unknown."""
    if wanted is None:
        return None
    return [
        f"globus_compute_sdk.serialize.concretes.{type(find_strategy(one)).__name__}" for one in wanted
    ] or None
