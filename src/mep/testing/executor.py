"""An Executor without relay, endpoint or network: tasks run here, after the same trip through text."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor as FuturesExecutor
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mep.base.errors import MepError
from mep.base.ids import new_id
from mep.sdk.errors import TaskExecutionFailed
from mep.sdk.futures import ComputeFuture
from mep.serialize import Serializer, StrategyLike, serialize_result
from mep.wire.packing import pack


@dataclass(frozen=True)
class Submitted:
    """One call that the code under test made, and what was asked of the endpoint with it."""

    task_id: str
    function_name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    endpoint_id: str | None
    user_endpoint_config: dict[str, Any] | None
    resource_specification: dict[str, Any] | None


@dataclass(frozen=True)
class _Plan:
    value: Any
    error: Exception | None


class FakeExecutor(FuturesExecutor):
    """Takes the place of `mep.Executor` in tests.

    Function, arguments and result are serialized and read back as on the way to a worker, so that what would not
    survive that way fails here too; a function that raises gives TaskExecutionFailed with its traceback.
    `submitted` lists the calls; `plan` decides what a function gives without running it.
    """

    def __init__(
        self,
        endpoint_id: object | None = None,
        client: object | None = None,
        task_group_id: object | None = None,
        resource_specification: dict[str, Any] | None = None,
        user_endpoint_config: dict[str, Any] | None = None,
        label: str = "",
        batch_size: int = 128,
        amqp_port: int | None = None,
        *,
        serializer: Serializer | None = None,
        result_serializers: Iterable[StrategyLike] | None = None,
        max_workers: int = 4,
    ) -> None:
        self.endpoint_id = None if endpoint_id is None else str(endpoint_id)
        self.client = client
        self.task_group_id = new_id() if task_group_id is None else str(task_group_id)
        self.resource_specification = resource_specification
        self.user_endpoint_config = user_endpoint_config
        self.label, self.batch_size, self.amqp_port = label, batch_size, amqp_port
        self.serializer = serializer or Serializer()
        self.result_serializers = list(result_serializers or ()) or None
        self.submitted: list[Submitted] = []
        self._workers = ThreadPoolExecutor(max_workers, "fake-worker")
        self._registered: dict[str, str] = {}  # function id -> serialized function
        self._plans: dict[str, _Plan] = {}
        self._futures: dict[str, list[ComputeFuture]] = {}

    def plan(
        self, fn: Callable[..., Any] | str, *, returns: Any = None, raises: Exception | str | None = None
    ) -> None:
        """From now on, calls of `fn` (or of the function of that name) are not run.

        returns: what they give. raises: what their future raises; a text becomes a TaskExecutionFailed.
        """
        error = TaskExecutionFailed(raises, code="RemoteExecutionError") if isinstance(raises, str) else raises
        self._plans[fn if isinstance(fn, str) else _name(fn)] = _Plan(returns, error)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ComputeFuture:
        """As `Executor.submit`."""
        return self._run(_name(fn), self.serializer.serialize(fn), args, kwargs)

    def register_function(self, fn: Callable[..., Any], function_id: object | None = None, **_: Any) -> str:
        """As `Executor.register_function`; nobody is told."""
        chosen = new_id() if function_id is None else str(function_id)
        self._registered[chosen] = self.serializer.serialize(fn)
        return chosen

    def submit_to_registered_function(
        self, function_id: object, args: Sequence[Any] | None = None, kwargs: dict[str, Any] | None = None
    ) -> ComputeFuture:
        """As `Executor.submit_to_registered_function`; KeyError if it was not registered here."""
        buffer = self._registered[str(function_id)]
        return self._run(_name(self.serializer.deserialize(buffer)), buffer, tuple(args or ()), kwargs or {})

    def reload_tasks(self, task_group_id: object | None = None) -> list[ComputeFuture]:
        """Return the futures of the group, as another session would get them."""
        if task_group_id is not None:
            self.task_group_id = str(task_group_id)
        return list(self._futures.get(self.task_group_id, ()))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """As `Executor.shutdown`."""
        self._workers.shutdown(wait, cancel_futures=cancel_futures)

    # ---- inside ----

    def _run(self, name: str, code: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ComputeFuture:
        buffer = pack([code]) + self.serializer.pack_arguments(args, kwargs)
        future = ComputeFuture(new_id(), self.task_group_id)
        assert future.task_id is not None
        self.submitted.append(
            Submitted(
                future.task_id,
                name,
                args,
                kwargs,
                self.endpoint_id,
                self.user_endpoint_config,
                self.resource_specification,
            )
        )
        self._futures.setdefault(self.task_group_id, []).append(future)
        self._workers.submit(self._work, future, self._plans.get(name), buffer)
        return future

    def _work(self, future: ComputeFuture, plan: _Plan | None, buffer: str) -> None:
        if future.cancelled():
            return
        try:
            value, error = (plan.value, plan.error) if plan is not None else (self._call(buffer), None)
        except MepError as failure:
            value, error = None, failure
        except Exception:  # noqa: BLE001 - whatever the user's function raises becomes a failed task
            value, error = None, TaskExecutionFailed(traceback.format_exc(), code="RemoteExecutionError")
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _call(self, buffer: str) -> Any:
        function, args, kwargs = self.serializer.load_call(buffer)
        return self.serializer.deserialize(serialize_result(function(*args, **kwargs), self.result_serializers))


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)
