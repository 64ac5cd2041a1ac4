"""An endpoint and its user endpoints as the relay sees them, each step by hand: register, take a command, report,
take tasks, answer. What a real endpoint does is tested with the real one; this one also does what that must not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import pika

from mep.wire import envelope
from mep.wire.envelope import ErrorDetails, Result, StatusReport, Task, Transition

WAIT_S = 10.0


class Http:
    """One person's HTTP client; answers are decoded JSON, errors are returned with their status."""

    def __init__(self, url: str, token: str) -> None:
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0)

    def ok(self, method: str, path: str, **options: Any) -> Any:
        """Return the answer's JSON; AssertionError if it is an error."""
        answer = self.client.request(method, path, **options)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def error(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the error's body, whose shape is checked."""
        answer = self.client.request(method, path, **options)
        assert answer.status_code >= 400, f"{method} {path}: {answer.status_code} {answer.text}"
        body = answer.json()
        assert body["http_status_code"] == answer.status_code
        assert body["status"] == "Failed"
        assert isinstance(body["code"], str)
        assert body["detail"]
        assert body["reason"]
        return dict(body)

    def function(self, **fields: Any) -> str:
        """Register a function and return its id."""
        body = {"function_name": "f", "function_code": "5\n01\nhi", "serialized": True, **fields}
        return str(self.ok("POST", "/v3/functions", json=body)["function_uuid"])

    def submit(self, endpoint_id: str, function_id: str, *payloads: str, **fields: Any) -> dict[str, Any]:
        """Submit payloads of one function; return the answer."""
        return dict(
            self.ok(
                "POST", f"/v3/endpoints/{endpoint_id}/submit", json=submission(function_id, *payloads, **fields)
            )
        )

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.ok("GET", f"/v2/tasks/{task_id}"))

    def close(self) -> None:
        self.client.close()


def submission(function_id: str, *payloads: str, **fields: Any) -> dict[str, Any]:
    """Return a submit's body."""
    return {
        "tasks": {function_id: list(payloads or ("1\na1\nb",))},
        "create_queue": True,
        "user_runtime": {"python_version": "3.11.2", "globus_compute_sdk_version": "4.19.0"},
        **fields,
    }


def registration(**fields: Any) -> dict[str, Any]:
    """Return a registration's body as a 4.19 endpoint sends it."""
    metadata = {
        "endpoint_version": "4.19.0",
        "python_version": "3.11.2",
        "hostname": "login1",
        "local_user": "root",
        "endpoint_config": "engine: x\n",
        "user_config_template": "engine: {{ x }}\n",
        "user_config_schema": fields.pop("user_config_schema", {}),
        **fields.pop("metadata", {}),
    }
    return {
        "endpoint_name": "site",
        "metadata": metadata,
        "public": True,
        "high_assurance": False,
        "multi_user": True,
    } | fields


@dataclass
class Command:
    """A start command as it arrived."""

    body: bytes
    document: dict[str, Any]
    properties: Any

    @property
    def creds(self) -> dict[str, Any]:
        return dict(self.document["kwargs"]["amqp_creds"])

    @property
    def uep_id(self) -> str:
        return str(self.creds["endpoint_id"])


class Peer:
    """Somebody with broker credentials."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def publish(self, info: dict[str, Any], body: bytes) -> None:
        """Publish with exactly the arguments that the relay gave."""
        given = info["queue_publish_kwargs"]
        self.channel.basic_publish(
            given["exchange"],
            given["routing_key"],
            body,
            pika.BasicProperties(**given["properties"]),
            mandatory=given["mandatory"],
        )

    def next_message(
        self, queue: str, *, wait_s: float = WAIT_S, exclusive: bool = False
    ) -> tuple[Any, Any, bytes] | None:
        """Return the next message (method, properties, body), or None after `wait_s`."""
        for method, properties, body in self.channel.consume(
            queue, inactivity_timeout=wait_s, exclusive=exclusive
        ):
            return None if method is None else (method, properties, body)
        return None

    def close(self) -> None:
        try:
            if self.connection.is_open:
                self.connection.close()
        except pika.exceptions.AMQPError:
            return  # the broker was quicker

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class FakeUep(Peer):
    """A user endpoint, connected with the credentials of a start command."""

    def __init__(self, creds: dict[str, Any]) -> None:
        super().__init__(creds["task_queue_info"]["connection_url"])
        self.creds, self.id = creds, creds["endpoint_id"]

    def report(self, **state: Any) -> None:
        """Publish a status report; `active=True` unless something else is said."""
        state = {"active": True, "heartbeat_period": 30.0, **state}
        body = envelope.encode(StatusReport(endpoint_id=self.id, global_state=state))
        self.publish(self.creds["heartbeat_queue_info"], body)

    def take(self, *, wait_s: float = WAIT_S) -> Task:
        """Take and acknowledge the next task."""
        found = self.next_message(self.creds["task_queue_info"]["queue"], wait_s=wait_s, exclusive=True)
        assert found is not None, "no task came"
        method, self.properties, body = found
        self.channel.basic_ack(method.delivery_tag)
        task = envelope.decode(body)
        assert isinstance(task, Task)
        return task

    def answer(self, task_id: str, data: str = "00\nanswer\n", *, error: str = "", **fields: Any) -> None:
        """Publish a result."""
        steps = [Transition(timestamp=1_700_000_000_000_000_000, state="execution-start", actor="worker")]
        result = Result(
            task_id=task_id,
            data=data,
            error_details=ErrorDetails(code=error, user_message=data) if error else None,
            details={"python_version": "3.11.2"},
            task_statuses=fields.pop("task_statuses", steps),
        )
        self.answer_raw(envelope.encode(result))

    def answer_raw(self, body: bytes) -> None:
        self.publish(self.creds["result_queue_info"], body)

    def stop(self) -> None:
        """Say goodbye and leave."""
        self.report(active=False)
        self.close()


@dataclass
class FakeEndpoint:
    """A core endpoint of `owner`."""

    owner: Http
    id: str = ""
    answer: dict[str, Any] = field(default_factory=dict)
    peer: Peer | None = None

    def register(self, **fields: Any) -> FakeEndpoint:
        """Register (again, with the same id)."""
        method, path = ("PUT", f"/v3/endpoints/{self.id}") if self.id else ("POST", "/v3/endpoints")
        self.answer = self.owner.ok(method, path, json=registration(**fields))
        self.id = self.answer["endpoint_id"]
        return self

    def connect(self, *, period_s: float = 30.0) -> FakeEndpoint:
        """Connect and send the first heartbeat."""
        self.peer = Peer(self.answer["command_queue_info"]["connection_url"])
        self.beat(period_s)
        return self

    def beat(self, period_s: float = 30.0) -> None:
        self.notice(self.id, heartbeat_period=period_s)

    def notice(self, about: str, **state: Any) -> None:
        """Publish a report about itself or one of its user endpoints."""
        assert self.peer is not None
        body = envelope.encode(StatusReport(endpoint_id=about, global_state=state))
        self.peer.publish(self.answer["heartbeat_queue_info"], body)

    def command(self, *, wait_s: float = WAIT_S) -> Command | None:
        """Take the next start command, or None after `wait_s`."""
        assert self.peer is not None
        found = self.peer.next_message(self.answer["command_queue_info"]["queue"], wait_s=wait_s)
        if found is None:
            return None
        method, properties, body = found
        self.peer.channel.basic_ack(method.delivery_tag)
        plain = self.opened(body)
        return Command(plain, json.loads(plain), properties)

    def opened(self, command: bytes) -> bytes:
        """Return the start command in a message: a stock endpoint's is plain."""
        return command

    def start_uep(self) -> FakeUep:
        """Take a command and become its user endpoint."""
        command = self.command()
        assert command is not None, "no start command came"
        uep = FakeUep(command.creds)
        uep.report()
        return uep

    def close(self) -> None:
        if self.peer is not None:
            self.peer.close()


class Reader(Peer):
    """An SDK's result stream."""

    def __init__(self, person: Http, group_id: str) -> None:
        told = person.ok("GET", "/v2/get_amqp_result_connection_url")
        super().__init__(told["connection_url"])
        self.queue = told["queue_prefix"] + group_id
        self.properties: Any = None

    def result(self, *, wait_s: float = WAIT_S) -> Result | None:
        """Return the next result, or None after `wait_s`."""
        found = self.next_message(self.queue, wait_s=wait_s)
        if found is None:
            return None
        method, self.properties, body = found
        self.channel.basic_ack(method.delivery_tag)
        result = envelope.decode(body)
        assert isinstance(result, Result)
        return result
