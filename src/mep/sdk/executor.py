"""`concurrent.futures.Executor` whose workers are an endpoint's."""

from __future__ import annotations

import atexit
import json
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor as FuturesExecutor
from typing import Any, Final

from mep.base.codes import Code
from mep.base.errors import InputError
from mep.base.ids import new_id
from mep.sdk.batch import serializer_paths
from mep.sdk.client import Client
from mep.sdk.futures import ComputeFuture
from mep.sdk.outbox import Call, Route
from mep.sdk.outcome import of_document
from mep.sdk.pending import fail
from mep.sdk.registry import Function, Registry
from mep.sdk.stream import ResultStream
from mep.sdk.submitter import Submitter
from mep.serialize import Serializer, StrategyLike

_IGNORED: Final = ("api_burst_limit", "api_burst_window_s", "container_id")  # stock, without meaning here
_FLUSH_AT_EXIT_S: Final = 10.0

_submitters: weakref.WeakSet[Submitter] = weakref.WeakSet()


class Executor(FuturesExecutor):
    """Runs functions on an endpoint; `submit` returns a future.

    endpoint_id: where. client: by whom (default: a new Client). task_group_id: the group to submit to (default: a
    new one). resource_specification, user_endpoint_config: what the endpoint is asked for. label: shows in logs.
    batch_size: the most tasks in one request. amqp_port: overrides the relay's. serializer: how arguments and
    functions become text. result_serializers: what workers try, in order, for results.

    All but client, label and batch_size may be changed between submits. A submit that fails leaves the others and
    the executor as they are.
    """

    def __init__(
        self,
        endpoint_id: object | None = None,
        client: Client | None = None,
        task_group_id: object | None = None,
        resource_specification: dict[str, Any] | None = None,
        user_endpoint_config: dict[str, Any] | None = None,
        label: str = "",
        batch_size: int = 128,
        amqp_port: int | None = None,
        *,
        serializer: Serializer | None = None,
        result_serializers: Iterable[StrategyLike] | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            if name not in _IGNORED:
                text = f"Executor does not know the argument {name!r} and ignores it."
                warnings.warn(text, UserWarning, stacklevel=2)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; wanted 1 or more")
        self.client = client if client is not None else Client()
        self.endpoint_id = endpoint_id
        self.resource_specification = resource_specification
        self.user_endpoint_config = user_endpoint_config
        self.label = label
        self.batch_size = batch_size
        self.serializer = serializer if serializer is not None else self.client.serializer
        self.result_serializers = result_serializers
        self._own_group = own_group = new_id()
        self._task_group_id = own_group if task_group_id is None else str(task_group_id)
        self._pid = os.getpid()
        self._shut = False
        self._shut_lock = threading.Lock()
        name = label or own_group[:8]
        box = self._serializer_box = [self.serializer]  # the stream must not hold the executor itself
        self._stream = ResultStream(self.client, lambda: box[0], amqp_port=amqp_port, name=name)
        self._submitter = Submitter(
            self.client, self._stream, batch_size=batch_size, own_group=own_group, name=name
        )
        _submitters.add(self._submitter)
        weakref.finalize(self, _abandon, self._submitter, self._pid).atexit = False
        self._stream.start()

    # ---- what is asked for ----

    @property
    def endpoint_id(self) -> str | None:
        """Where tasks go."""
        return self._endpoint_id

    @endpoint_id.setter
    def endpoint_id(self, value: object | None) -> None:
        self._endpoint_id = None if value is None else str(value)

    @property
    def task_group_id(self) -> str:
        """The group of the tasks submitted from now on; with it another session can `reload_tasks`."""
        return self._submitter.group_of(self._task_group_id)

    @task_group_id.setter
    def task_group_id(self, value: object | None) -> None:
        self._task_group_id = self._own_group if value is None else str(value)

    @property
    def amqp_port(self) -> int | None:
        """The broker's port, if the relay's answer is not to be followed. Counts at the next connect."""
        return self._stream.amqp_port

    @amqp_port.setter
    def amqp_port(self, value: int | None) -> None:
        self._stream.amqp_port = value

    @property
    def serializer(self) -> Serializer:
        """How functions and arguments become text, and results become objects."""
        return self._serializer

    @serializer.setter
    def serializer(self, value: Serializer) -> None:
        self._serializer = value
        self._registry = Registry(value)
        if hasattr(self, "_serializer_box"):
            self._serializer_box[0] = value

    @property
    def result_serializers(self) -> list[str] | None:
        """Import paths of the strategies that workers try for results."""
        return list(self._result_serializers) or None

    @result_serializers.setter
    def result_serializers(self, value: Iterable[StrategyLike] | None) -> None:
        self._result_serializers = tuple(serializer_paths(value) or ())

    # ---- submitting ----

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ComputeFuture:
        """Send `fn(*args, **kwargs)` on its way. The function is registered once.

        SerializationError if the function or its arguments cannot become text. Everything else that goes wrong
        is the future's exception.
        """
        return self._enqueue(self._registry.find(fn), args, kwargs)

    def submit_to_registered_function(
        self, function_id: object, args: Sequence[Any] | None = None, kwargs: dict[str, Any] | None = None
    ) -> ComputeFuture:
        """Call a function by the id that it is registered under."""
        return self._enqueue(Function(None, str(function_id)), tuple(args or ()), kwargs or {})

    def register_function(self, fn: Callable[..., Any], function_id: object | None = None, **options: Any) -> str:
        """Register `fn` now, or note that it is registered as `function_id`; returns the id.

        `options`: description, metadata, public, group, ha_endpoint_id, as `Client.register_function`.
        """
        if function_id is not None:
            return self._registry.bind(fn, str(function_id)).registered(self.client)
        registered = self._registry.find(fn, **options).registered(self.client)
        if options:
            self._registry.bind(fn, registered)
        return registered

    def register_source_code(self, source: str, function_name: str, **options: Any) -> str:
        """Register source code, as `Client.register_source_code`; returns the function's id."""
        return self.client.register_source_code(source, function_name, **options)

    def get_worker_hardware_details(self) -> str:
        """Return a report on the machine that the endpoint's workers run on."""
        from mep.serialize.hardware import hardware_report

        return str(self.submit(hardware_report).result())

    def reload_tasks(self, task_group_id: object | None = None) -> list[ComputeFuture]:
        """Return futures for all tasks of the group, from whichever session: done ones are complete at once."""
        if task_group_id is not None:
            self.task_group_id = task_group_id
        self._must_be_usable()
        group = self.task_group_id
        listed = [str(task["id"]) for task in self.client.get_task_group(group)["tasks"]]
        known = {task: self._stream.pending.find(task) for task in listed}
        futures = {task: known[task] or ComputeFuture(task, group) for task in listed}
        fresh = {task: future for task, future in futures.items() if known[task] is None}
        # first listen, then ask: a result that comes in between is seen by one of the two
        self._stream.track(group, fresh)
        for task, document in self.client.get_task_documents(fresh).items():
            outcome = of_document(document, self.serializer)
            if outcome is not None:
                self._stream.pending.settle(task, outcome)
        return list(futures.values())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Take no more calls; wait until all futures are done, or leave that to the background.

        cancel_futures: give up the calls that were not sent yet, and the results of those that were.
        """
        with self._shut_lock:
            self._shut = True
        if os.getpid() != self._pid:
            return
        if cancel_futures:
            self._submitter.cancel_all()
        if not wait:
            self._submitter.finish()
            return
        self._submitter.outbox.wait_sent()
        self._stream.pending.wait()
        self._submitter.outbox.close()
        self._stream.close()

    # ---- inside ----

    def _must_be_usable(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("This Executor belongs to the parent process; make a new one in this process.")
        if self._shut:
            raise RuntimeError("This Executor is shut down; make a new one.")

    def _enqueue(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ComputeFuture:
        self._must_be_usable()
        if self._endpoint_id is None:
            raise InputError(Code.USAGE, "The Executor has no endpoint_id.", step="Set executor.endpoint_id.")
        payload = self._serializer.pack_arguments(args, kwargs)
        route = Route(
            self._endpoint_id,
            self._task_group_id,
            _as_text("user_endpoint_config", self.user_endpoint_config),
            _as_text("resource_specification", self.resource_specification),
            self._result_serializers,
        )
        future = ComputeFuture(None, self._task_group_id)
        self._stream.connect()
        self._submitter.outbox.put(route, Call(future, function, payload))
        return future


def _as_text(name: str, value: dict[str, Any] | None) -> str:
    """The options as they are now: the user may change the dict between two submits."""
    if not value:
        return ""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        text = f"{name} must be JSON-like (dicts, lists, strings, numbers): {error}."
        raise InputError(Code.OPTIONS_INVALID, text) from None


def _abandon(submitter: Submitter, pid: int) -> None:
    """Nobody holds the executor any more; its futures may still be waited for."""
    if os.getpid() == pid:
        submitter.finish()


def _at_exit() -> None:
    """What was submitted is sent before the process ends; results can be had later with `reload_tasks`."""
    for submitter in list(_submitters):
        submitter.outbox.wait_sent(_FLUSH_AT_EXIT_S)
        submitter.outbox.close()
        submitter.stream.close(2.0)


def _in_child() -> None:
    """After a fork: threads and connections are the parent's, so futures here would wait for ever."""
    lost = RuntimeError("This future belongs to the parent process.")
    for submitter in list(_submitters):
        submitter.stream.after_fork()
        for future in submitter.stream.pending.futures():
            future._condition = threading.Condition()  # another thread may have held it
            future._waiters, future._done_callbacks = [], []  # type: ignore[attr-defined] # they are the parent's too
            fail([future], lost)
    _submitters.clear()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_child)
