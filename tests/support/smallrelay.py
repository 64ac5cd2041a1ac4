"""A relay in one thread pool, for the SDK's tests: does the tasks itself, and misbehaves when told to.

What a real relay answers is tested with the real one; this one exists for what a real one does rarely: errors,
silence, wrong ids, results before the answer, messages that are no results.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pika

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.serialize import Serializer, serialize_result
from mep.wire import seal
from mep.wire.envelope import ErrorDetails, Result, encode
from mep.wire.packing import unpack
from mep.wire.seal import Sealer

EXCHANGE = "results"
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Faults:
    """What goes wrong. Lists are used up, one entry per request; flags hold until they are changed."""

    statuses: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=lambda: defaultdict(list))
    break_connection: list[str] = field(default_factory=list)  # paths: the request is done, the answer is lost
    results_first: bool = False  # publish before the submit is answered
    hold_results: bool = False  # do the tasks, publish nothing
    duplicate_results: bool = False
    high_assurance: bool = False
    group_unknown: bool = False  # refuse task groups that the client made, as a stock service does
    fewer_ids: bool = False
    details: dict[str, Any] | None = None
    submit_delay_s: float = 0.0


class SmallRelay:
    """`with SmallRelay(amqp_url) as relay: Client(relay_url=relay.url, token="t")`."""

    def __init__(self, amqp_url: str, *, token: str = "t") -> None:
        self.amqp_url, self.token = amqp_url, token
        self.faults = Faults()
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.functions: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[str]] = defaultdict(list)
        self.answered: dict[str, Any] = {}
        self.min_sdk_version = "1.0.0"
        self.seal_key: Secret | None = None  # set it before an SDK asks for its address
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._sockets: list[Any] = []
        self._channel: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SmallRelay:
        if self.amqp_url:
            self._connection = pika.BlockingConnection(pika.URLParameters(self.amqp_url))
            self._channel = self._connection.channel()
            self._channel.exchange_declare(EXCHANGE, "topic")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
            except OSError:
                pass  # closed already
        self._server.server_close()
        if self._channel is not None and self._connection.is_open:
            self._connection.close()

    def count(self, path: str) -> int:
        """Return how many requests had this path prefix."""
        return sum(seen.startswith(path) for _, seen, _ in self.requests)

    def publish(self, group: str, body: bytes, headers: dict[str, Any] | None = None) -> None:
        """Put a message on the group's queue."""
        with self._lock:
            properties = pika.BasicProperties(headers=headers, timestamp=int(time.time()))
            self._channel.basic_publish(EXCHANGE, group, body, properties)

    def waiting(self, group: str) -> int:
        """Return how many messages the group's queue holds."""
        with self._lock:
            return int(self._channel.queue_declare(f"tg.{group}", passive=True).method.message_count)

    # ---- routes ----

    def handle(self, method: str, path: str, query: dict[str, Any], body: Any, headers: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append((method, path, body))
            self.headers.append(headers)
            for prefix, planned in self.faults.statuses.items():
                if path.startswith(prefix) and planned:
                    status, extra = planned.pop(0)
                    return status, {"code": "PLANNED", "detail": f"planned {status}"}, extra
        if path == "/v2/version":
            return 200, {"api": "1", "min_ep_version": "1.0.0", "min_sdk_version": self.min_sdk_version}, {}
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"code": "USER_UNAUTHENTICATED", "detail": "who are you"}, {}
        parts = path.strip("/").split("/")
        if path == "/v3/functions":
            function_id = new_id()
            self.functions[function_id] = body
            return 200, {"function_uuid": function_id}, {}
        if parts[-1] == "submit":
            return self._submit(body, headers.get("idempotency-key", ""))
        if path == "/v2/get_amqp_result_connection_url":
            key = {"seal_key": self.seal_key.reveal()} if self.seal_key is not None else {}
            return 200, {"queue_prefix": "tg.", "connection_url": self.amqp_url, **key}, {}
        if path == "/v2/batch_status":
            found = {task: self.tasks[task] for task in body["task_ids"] if task in self.tasks}
            return 200, {"response": "batch", "results": found}, {}
        if parts[:2] == ["v2", "tasks"]:
            return 200, self.tasks[parts[2]], {}
        if parts[:2] == ["v2", "taskgroup"]:
            listed = [{"id": task, "created_at": ""} for task in self.groups[parts[2]]]
            return 200, {"taskgroup_id": parts[2], "create_websockets_queue": True, "tasks": listed}, {}
        if path == "/v2/oauth2/userinfo":
            return 200, {"sub": new_id(), "preferred_username": "alice@example.org"}, {}
        return 404, {"code": "ENDPOINT_NOT_FOUND", "detail": f"no route {method} {path} {query}"}, {}

    def _submit(self, body: dict[str, Any], key: str) -> Answer:
        time.sleep(self.faults.submit_delay_s)
        with self._lock:
            if key and key in self.answered:
                return 200, self.answered[key], {}
            group = body.get("task_group_id")
            if self.faults.group_unknown and group not in self.groups:
                if group is not None:
                    return 404, {"code": "TASK_GROUP_NOT_FOUND", "detail": "no such task group"}, {}
                group = new_id()
            group = group or new_id()
            if body["create_queue"] and group not in self.groups and self._channel is not None:
                self._channel.queue_declare(f"tg.{group}", auto_delete=False)
                self._channel.queue_bind(f"tg.{group}", EXCHANGE, group)
            made: dict[str, list[str]] = {}
            results = []
            for function_id, payloads in body["tasks"].items():
                made[function_id] = [new_id() for _ in payloads]
                for task_id, payload in zip(made[function_id], payloads, strict=True):
                    self.groups[group].append(task_id)
                    result = self._do(task_id, self.functions[function_id]["function_code"] + payload)
                    self.tasks[task_id] = _document(result)
                    results.append(result)
            answer = {"tasks": made, "task_group_id": group, "request_id": new_id(), "endpoint_id": new_id()}
            self.answered[key] = answer
        if self.faults.fewer_ids:
            answer = {**answer, "tasks": {f: ids[:-1] for f, ids in made.items()}}
        if not self.faults.hold_results and self._channel is not None:
            delay = 0.0 if self.faults.results_first else 0.005
            timer = threading.Timer(delay, self._publish_all, (group, results))
            timer.start()
            if self.faults.results_first:
                timer.join()
                time.sleep(0.2)
        return 200, answer, {}

    def _do(self, task_id: str, task_buffer: str) -> Result:
        try:
            function, args, kwargs = Serializer().load_call(task_buffer)
            data, error = serialize_result(function(*args, **kwargs)), None
        except Exception:  # noqa: BLE001 - the user's function may raise anything
            data = traceback.format_exc()
            error = ErrorDetails(code="RemoteExecutionError", user_message="it raised")
        return Result(task_id=task_id, data=data, error_details=error, details=self.faults.details)

    def _publish_all(self, group: str, results: list[Result]) -> None:
        assured = self.faults.high_assurance
        headers = {"high_assurance": True} if assured and self.seal_key is None else None
        for result in results:
            shown = encode(Result(task_id=result.task_id, data="") if assured else result)
            if self.seal_key is not None:
                shown = Sealer(self.seal_key, seal.DELIVERY, group).seal(shown)
            for _ in range(2 if self.faults.duplicate_results else 1):
                self.publish(group, shown, headers)


def _document(result: Result) -> dict[str, Any]:
    ended = {"task_id": result.task_id, "completion_t": str(time.time()), "details": result.details}
    if result.error_details is not None:
        return {**ended, "status": "failed", "exception": result.data}
    return {**ended, "status": "success", "result": result.data}


def codes_of(function_code: str) -> list[str]:
    """Return the strategies of a packed function."""
    return [buffer[:2] for buffer in unpack(function_code)]


def _handler(relay: SmallRelay) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            relay._sockets.append(self.connection)

        def log_message(self, *_: Any) -> None:
            pass

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            is_json = "json" in self.headers.get("Content-Type", "")
            body = json.loads(raw) if raw and is_json else raw.decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer, extra = relay.handle(self.command, parts.path, parse_qs(parts.query), body, headers)
            if parts.path in relay.faults.break_connection:
                relay.faults.break_connection.remove(parts.path)
                self.close_connection = True
                self.connection.close()
                return
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            for name, value in extra.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_DELETE = _any

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                pass  # the test closed the socket

    return Handler
