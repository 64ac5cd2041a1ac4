"""Everything that the relay offers over HTTP, under the stock names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from mep.base.ids import new_id
from mep.sdk.batch import Batch
from mep.sdk.credentials import COMPUTE_SCOPE, RESOURCE_SERVER, find_authorizer, find_relay
from mep.sdk.errors import ComputeAPIError, TaskPending, VersionMismatch
from mep.sdk.functions import registration, source_registration
from mep.sdk.http import Authorizer, RelayHttp, not_understood, segment
from mep.sdk.outcome import of_document
from mep.sdk.runtime import STOCK_LEVEL, version_tuple
from mep.serialize import Serializer, StrategyLike

Json = dict[str, Any]
_BATCH_STATUS_MOST = 1000  # ids in one request


class Client:
    """A connection to a relay, as one user.

    relay_url: the relay's address (default: MEP_RELAY_URL, then what `mep login` stored).
    token, authorizer, app: the credentials (default: MEP_TOKEN, then MEP_CLIENT_ID and MEP_CLIENT_SECRET, then
    what `mep login` stored). `authorizer` is any object with `get_authorization_header()`, `app` a GlobusApp.
    do_version_check: ask the relay at once whether this SDK is recent enough.
    """

    def __init__(
        self,
        environment: str | None = None,
        local_compute_services: bool = False,  # noqa: FBT001, FBT002 - stock signature
        do_version_check: bool = True,  # noqa: FBT001, FBT002 - stock signature
        *,
        relay_url: str | None = None,
        token: str | None = None,
        authorizer: Any = None,
        app: Any = None,
        serializer: Serializer | None = None,
        code_serialization_strategy: StrategyLike | None = None,
        data_serialization_strategy: StrategyLike | None = None,
        retry_s: float = 60.0,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            warnings.warn(f"Client does not know the argument {name!r} and ignores it.", UserWarning, stacklevel=2)
        relay = find_relay(relay_url, environment=environment, local_compute_services=local_compute_services)
        self._http = RelayHttp(relay, _authorizer(relay, token, authorizer, app), retry_s=retry_s)
        self.serializer = serializer or Serializer(code_serialization_strategy, data_serialization_strategy)
        self._finished: dict[str, Json] = {}
        if do_version_check:
            self.version_check()

    @property
    def web_service_address(self) -> str:
        """The relay's address."""
        return self._http.base_url

    def close(self) -> None:
        """Close idle connections; the client can be used again."""
        self._http.close()

    # ---- the service ----

    def get_version(self) -> Json:
        """Return the relay's version and the oldest SDK and endpoint that it serves."""
        return self._http.request_object("GET", "/v2/version", query={"service": "all"})

    def version_check(self, endpoint_version: str | None = None) -> None:
        """Raise VersionMismatch if this SDK (or the endpoint of that version) is too old for the relay."""
        answer = self.get_version()
        pairs = [("This SDK, which is like release", STOCK_LEVEL, answer.get("min_sdk_version", "0"))]
        if endpoint_version is not None:
            pairs.append(("An endpoint of release", endpoint_version, answer.get("min_ep_version", "0")))
        for what, have, least in pairs:
            if version_tuple(have) < version_tuple(str(least)):
                raise VersionMismatch(f"{what} {have}, is older than {least}, the oldest that the relay serves.")

    def whoami(self) -> Json:
        """Return who the relay takes us for: `sub`, `preferred_username`, `identity_set`."""
        return self._http.request_object("GET", "/v2/oauth2/userinfo")

    def get_result_amqp_url(self) -> Json:
        """Return `connection_url` and `queue_prefix` of the result stream. The URL holds a password."""
        return self._http.request_object("GET", "/v2/get_amqp_result_connection_url")

    # ---- functions ----

    def register_function(
        self,
        function: Callable[..., Any],
        description: str | None = None,
        metadata: Json | None = None,
        public: bool = False,  # noqa: FBT001, FBT002 - stock signature
        group: object | None = None,
        ha_endpoint_id: object | None = None,
    ) -> str:
        """Register a function and return its id. The description is its docstring unless given."""
        body = registration(
            function,
            self.serializer.serialize(function),
            description=description,
            metadata=metadata,
            public=public,
            group=group,
            ha_endpoint_id=ha_endpoint_id,
        )
        return self.register_prepared(body)

    def register_source_code(
        self,
        source: str,
        function_name: str,
        description: str | None = None,
        metadata: Json | None = None,
        public: bool = False,  # noqa: FBT001, FBT002 - stock signature
        group: object | None = None,
        ha_endpoint_id: object | None = None,
    ) -> str:
        """Register source code whose entry point is `function_name`, and return the function's id."""
        body = source_registration(
            source,
            function_name,
            description=description,
            metadata=metadata,
            public=public,
            group=group,
            ha_endpoint_id=ha_endpoint_id,
        )
        return self.register_prepared(body)

    def register_prepared(self, body: Json) -> str:
        """Send a registration body as `mep.sdk.functions` makes it, and return the function's id."""
        answer = self._http.request_object("POST", "/v3/functions", body=body)
        _warn_of(answer)
        if not isinstance(function_id := answer.get("function_uuid"), str):
            raise not_understood("the registration of a function", "it names no function")
        return function_id

    def get_function(self, function_id: object) -> Json:
        """Return what is stored about a function."""
        return self._http.request_object("GET", f"/v2/functions/{segment(function_id)}")

    def delete_function(self, function_id: object) -> Json:
        """Delete a function."""
        return self._http.request_object("DELETE", f"/v2/functions/{segment(function_id)}")

    # ---- endpoints ----

    def get_endpoints(self, role: str | None = None) -> list[Json]:
        """Return the endpoints that one owns (`role="any"`: may use)."""
        answer: list[Json] = self._http.request("GET", "/v2/endpoints", query={"role": role} if role else None)
        return answer

    def get_endpoint_status(self, endpoint_uuid: object) -> Json:
        """Return `status` (online, offline) and `details` of an endpoint."""
        return self._http.request_object("GET", f"/v2/endpoints/{segment(endpoint_uuid)}/status")

    def get_endpoint_metadata(self, endpoint_uuid: object) -> Json:
        """Return what an endpoint told about itself when it registered."""
        return self._http.request_object("GET", f"/v2/endpoints/{segment(endpoint_uuid)}")

    def get_allowed_functions(self, endpoint_id: object) -> Json:
        """Return whether the endpoint restricts functions, and to which."""
        return self._http.request_object("GET", f"/v3/endpoints/{segment(endpoint_id)}/allowed_functions")

    def register_endpoint(
        self,
        name: str,
        endpoint_id: object | None,
        metadata: Json | None = None,
        multi_user: bool | None = None,  # noqa: FBT001 - stock signature
        display_name: str | None = None,
        allowed_functions: list[Any] | None = None,
        auth_policy: object | None = None,
        subscription_id: object | None = None,
        public: bool | None = None,  # noqa: FBT001 - stock signature
        high_assurance: bool | None = None,  # noqa: FBT001 - stock signature
        admins: Iterable[object] | None = None,
    ) -> Json:
        """Register an endpoint, or register it again under the id it has; returns its broker credentials."""
        wanted: Json = {
            "endpoint_name": name,
            "display_name": display_name,
            "multi_user": True if multi_user else None,
            "metadata": metadata or None,
            "allowed_functions": [str(f) for f in allowed_functions] if allowed_functions else None,
            "authentication_policy": str(auth_policy) if auth_policy else None,
            "subscription_uuid": str(subscription_id) if subscription_id else None,
            "public": public,
            "high_assurance": high_assurance,
            "admins": [str(admin) for admin in admins] if admins else None,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        method, path = (
            ("PUT", f"/v3/endpoints/{segment(endpoint_id)}") if endpoint_id else ("POST", "/v3/endpoints")
        )
        return self._http.request_object(method, path, body=body)

    def stop_endpoint(self, endpoint_id: object) -> Json:
        """Make the endpoint's daemon go away, and keep it from coming back for a while."""
        return self._http.request_object("POST", f"/v3/endpoints/{segment(endpoint_id)}/lock")

    lock_endpoint = stop_endpoint

    def delete_endpoint(self, endpoint_id: object) -> Json:
        """Delete an endpoint from the relay."""
        return self._http.request_object("DELETE", f"/v2/endpoints/{segment(endpoint_id)}")

    # ---- tasks ----

    def create_batch(
        self,
        task_group_id: object | None = None,
        resource_specification: Json | None = None,
        user_endpoint_config: Json | None = None,
        create_websocket_queue: bool = False,  # noqa: FBT001, FBT002 - stock signature
        result_serializers: Iterable[StrategyLike] | None = None,
    ) -> Batch:
        """Return an empty batch for `batch_run`."""
        return Batch(
            task_group_id,
            resource_specification,
            user_endpoint_config,
            create_websocket_queue,
            self.serializer,
            result_serializers,
        )

    def batch_run(self, endpoint_id: object, batch: Batch, *, idempotency_key: str | None = None) -> Json:
        """Submit a batch; returns `tasks` (function id -> task ids, in order), `task_group_id`, `request_id`.

        The request is repeated if the network breaks; the key makes sure that the tasks are taken once.
        """
        if not len(batch):
            raise ValueError("The batch holds no tasks.")
        key = {"Idempotency-Key": idempotency_key or new_id()}
        path = f"/v3/endpoints/{segment(endpoint_id)}/submit"
        answer = self._http.request_object("POST", path, body=batch.prepare(), headers=key)
        _warn_of(answer)
        if not _is_ids_by_function(answer.get("tasks")):
            raise not_understood("the submit", "it does not name the tasks")
        return answer

    def run(self, *args: Any, endpoint_id: object, function_id: object, **kwargs: Any) -> str:
        """Call a registered function; returns the task's id."""
        batch = self.create_batch()
        batch.add(function_id, args, kwargs)
        answer = self.batch_run(endpoint_id, batch)
        if not (ids := answer["tasks"].get(str(function_id))):
            raise not_understood("the submit", "it does not name the task")
        return str(ids[0])

    def get_task(self, task_id: object) -> Json:
        """Return `pending`, `status`, and once it has ended `result` and `completion_t`.

        Raises TaskExecutionFailed if the task failed, DeserializationError if its result cannot be read.
        """
        task = str(task_id)
        if task in self._finished:
            return self._finished[task]
        return self._status_of(task, self._http.request_object("GET", f"/v2/tasks/{segment(task)}"))

    def get_result(self, task_id: object) -> Any:
        """Return what the task returned; TaskPending while it has not, TaskExecutionFailed if it failed."""
        task = self.get_task(task_id)
        if task["pending"]:
            raise TaskPending(task["status"])
        return task["result"]

    def get_batch_result(self, task_id_list: Iterable[object]) -> dict[str, Json]:
        """Return what `get_task` does, by task id; a failed task has `exception` in place of `result`."""
        tasks = dict.fromkeys(map(str, task_id_list))
        found = {task: self._finished[task] for task in tasks if task in self._finished}
        for task, document in self.get_task_documents([t for t in tasks if t not in found]).items():
            try:
                found[task] = self._status_of(task, document)
            except Exception as error:  # noqa: BLE001 - one failed task must not hide the others
                status = str(document.get("status", "failed")).lower()
                found[task] = {"pending": False, "status": status, "exception": error}
        return found

    def get_task_documents(self, task_ids: Iterable[str]) -> dict[str, Json]:
        """Return the relay's own task documents, results still serialized."""
        wanted = list(task_ids)
        documents: dict[str, Json] = {}
        for at in range(0, len(wanted), _BATCH_STATUS_MOST):
            body = {"task_ids": wanted[at : at + _BATCH_STATUS_MOST]}
            found = self._http.request_object("POST", "/v2/batch_status", body=body).get("results")
            if not isinstance(found, dict):
                raise not_understood("the question for results", "it has none")
            documents.update((task, one) for task, one in found.items() if isinstance(one, dict))
        return documents

    def get_task_group(self, task_group_id: object) -> Json:
        """Return the tasks of a group: `tasks` is a list of `id` and `created_at`."""
        return self._http.request_object("GET", f"/v2/taskgroup/{segment(task_group_id)}")

    def get_worker_hardware_details(self, endpoint_id: object) -> str:
        """Submit a report on the worker's machine; returns the task's id, its result is a text."""
        from mep.serialize.hardware import hardware_report

        return self.run(endpoint_id=endpoint_id, function_id=self.register_function(hardware_report))

    def logout(self) -> bool:
        """Forget what `mep login` stored; tells whether there was something."""
        from mep.sdk.login_file import remove_login

        return remove_login()

    def _status_of(self, task: str, document: Json) -> Json:
        if document.get("task_id", task) != task:
            text = f"Asked for task {task}, the relay answered with {document.get('task_id')}."
            raise ComputeAPIError(200, "RELAY_REFUSED", text)
        status: Json = {"pending": True, "status": str(document.get("status", "unknown")).lower()}
        if "details" in document:
            status["details"] = document["details"]
        outcome = of_document(document, self.serializer)
        if outcome is None:
            return status
        if outcome.error is not None:
            raise outcome.error
        status.update(pending=False, result=outcome.value, completion_t=outcome.completion_t)
        self._finished[task] = status
        return status


def _authorizer(relay: str, token: str | None, authorizer: Any, app: Any) -> Authorizer:
    given = [name for name, value in (("token", token), ("authorizer", authorizer), ("app", app)) if value]
    if len(given) > 1:
        raise ValueError(f"Give one of token, authorizer, app; not {' and '.join(given)}.")
    if token:
        from mep.base.secrets import Secret
        from mep.sdk.credentials import TokenAuthorizer

        return TokenAuthorizer(Secret(token))
    if app is not None:
        app.add_scope_requirements({RESOURCE_SERVER: [COMPUTE_SCOPE]})
        authorizer = app.get_authorizer(RESOURCE_SERVER)
    chosen: Authorizer = authorizer if authorizer is not None else find_authorizer(relay)
    return chosen


def _is_ids_by_function(tasks: object) -> bool:
    return isinstance(tasks, dict) and all(
        isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in tasks.values()
    )


def _warn_of(answer: Json) -> None:
    if text := answer.get("ha_warning"):
        warnings.warn(str(text), UserWarning, stacklevel=3)
