"""A user endpoint for tests: its broker side as a relay would lay it out, and the process itself, forked."""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dill
import pika
from msgspec import UNSET

from mep.base.ids import new_id
from mep.base.secrets import Secret
from mep.daemon.freshstart import execute_boot
from mep.serialize.facade import Serializer
from mep.wire import command, envelope, seal, sealed
from mep.wire.command import AmqpCreds, QueueInfo, StartArguments, StartCommand
from mep.wire.launch import Launch
from mep.wire.packing import pack
from mep.wire.privsep import Channel, ChildToMonitor, Failed, MonitorToChild, Note, Ready, channel_pair
from mep.wire.seal import Sealer, SealError
from mep.wire.sealed import SealedTask
from mep.wire.signing import body_digest
from mep.wire.taskevents import TaskEvent, TaskEvents

_serializer = Serializer()


def task_buffer(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return the packed call; the function travels by value, as one typed into a session does."""
    dill.settings["recurse"] = True
    try:
        code = _serializer.serialize(function)
    finally:
        dill.settings["recurse"] = False
    return pack([code]) + _serializer.pack_arguments(args, kwargs)


def value_of(result: envelope.Result) -> Any:
    """Return what the function returned; AssertionError with the remote text if it failed."""
    assert result.error_details is None, result.data
    return _serializer.deserialize(result.data)


@dataclass
class Site:
    """One user endpoint's queues on a broker, and the far side's connection to them. `seal_key`: the far side is a
    relay that seals."""

    url: str
    uep_id: str = field(default_factory=new_id)
    seal_key: Secret | None = None
    _sealers: dict[tuple[str, str], Sealer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.channel = self.connection.channel()
        for exchange in ("tasks", "results", "heartbeats"):
            self.channel.exchange_declare(exchange, "topic", durable=True)
        for queue, exchange in (
            (f"{self.uep_id}.tasks", "tasks"),
            ("results", "results"),
            ("heartbeats", "heartbeats"),
        ):
            self.channel.queue_declare(queue, durable=True)
            key = f"{self.uep_id}.{exchange}" if exchange == "tasks" else f"*.{exchange}"
            self.channel.queue_bind(queue, exchange, key)
        self.results: dict[str, list[envelope.Result]] = {}
        self.reports: list[envelope.StatusReport] = []
        self._consuming = False
        self.endpoint_url = self.url  # where the user endpoint connects
        self.refused: list[bytes] = []  # what came and was not sealed as it should be

    def creds(self) -> AmqpCreds:
        """Return what a relay would put into the start command."""

        def info(exchange: str, queue: str) -> QueueInfo:
            publish = {
                "exchange": exchange,
                "routing_key": f"{self.uep_id}.{exchange}",
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            }
            return QueueInfo(
                connection_url=Secret(self.endpoint_url),
                exchange=exchange,
                queue=queue,
                queue_publish_kwargs=publish,
            )

        return AmqpCreds(
            endpoint_id=self.uep_id,
            task_queue_info=info("tasks", f"{self.uep_id}.tasks"),
            result_queue_info=info("results", "results"),
            heartbeat_queue_info=info("heartbeats", "heartbeats"),
        )

    def submit(self, function: Callable[..., Any], *args: Any, headers: dict[str, Any] | None = None) -> str:
        """Publish one task; return its id."""
        return self.submit_buffer(task_buffer(function, *args), headers=headers)

    def submit_buffer(self, buffer: str, *, headers: dict[str, Any] | None = None, task_id: str = "") -> str:
        """Publish a packed call; `headers` replace the usual ones by name (None leaves one out)."""
        task_id = task_id or new_id()
        usual: dict[str, Any] = {envelope.HEADER_TASK: task_id, envelope.HEADER_FUNCTION: new_id()}
        given = {name: value for name, value in {**usual, **(headers or {})}.items() if value is not None}
        if self.seal_key is not None:
            self.publish(self.sealed_task(task_id, buffer), {})
        else:
            self.publish(envelope.encode(envelope.Task(task_id=task_id, task_buffer=buffer)), given)
        return task_id

    def sealer(self, purpose: str, *, channel: str = "") -> Sealer:
        """Return what the relay seals and opens with."""
        assert self.seal_key is not None
        key = (purpose, channel or self.uep_id)
        if key not in self._sealers:
            self._sealers[key] = Sealer(self.seal_key, *key)
        return self._sealers[key]

    def sealed_task(self, task_id: str, buffer: str) -> bytes:
        """Return a task as the relay would send it."""
        return self.sealer(seal.TASK).seal(sealed.encode(SealedTask(task_id, new_id(), buffer, {}, [])))

    def publish(self, body: bytes, headers: dict[str, Any]) -> None:
        """Publish any body to the task queue."""
        properties = pika.BasicProperties(headers=headers, delivery_mode=2)
        self.channel.basic_publish("tasks", f"{self.uep_id}.tasks", body, properties)

    def queued(self) -> int:
        """Return how many tasks wait in the queue."""
        declared = self.channel.queue_declare(f"{self.uep_id}.tasks", durable=True, passive=True)
        return int(declared.method.message_count)

    def pump(self, until: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        """Take results and reports until the condition holds."""
        if not self._consuming:
            self._consuming = True
            self.channel.basic_consume("results", self._take)
            self.channel.basic_consume("heartbeats", self._take)
        end = time.monotonic() + timeout_s
        while not until():
            left = end - time.monotonic()
            assert left > 0, f"not within {timeout_s} s: {what}"
            self.connection.process_data_events(time_limit=min(left, 0.2))

    def result(self, task_id: str, timeout_s: float = 20.0) -> envelope.Result:
        """Wait for a task's (first) result."""
        self.pump(lambda: task_id in self.results, f"result of {task_id}", timeout_s)
        return self.results[task_id][0]

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 20.0) -> Any:
        """Submit, wait, return the value."""
        return value_of(self.result(self.submit(function, *args), timeout_s))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _take(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if self.seal_key is not None:
            purpose = seal.RESULT if method.exchange == "results" else seal.REPORT
            try:
                _, body = self.sealer(purpose).open(body)
            except SealError:
                self.refused.append(body)
                channel.basic_ack(method.delivery_tag)
                return
        message = envelope.decode(body)
        if isinstance(message, envelope.Result):
            self.results.setdefault(message.task_id, []).append(message)
        elif isinstance(message, envelope.StatusReport):
            self.reports.append(message)
        channel.basic_ack(method.delivery_tag)


@contextmanager
def site(url: str, *, seal_key: Secret | None = None) -> Iterator[Site]:
    """Lay out a user endpoint's queues."""
    made = Site(url, seal_key=seal_key)
    try:
        yield made
    finally:
        made.close()


def payload_fd(creds: AmqpCreds, options: dict[str, Any], seal_key: Secret | None = None) -> tuple[int, str]:
    """Return a memfd with a start command, and its digest."""
    body = command.encode(
        StartCommand(
            command=command.START,
            kwargs=StartArguments(
                name="uep",
                amqp_creds=creds,
                user_opts=options,
                user_runtime={},
                seal_key=UNSET if seal_key is None else seal_key,
            ),
            globus_effective_identity=new_id(),
            globus_username="alice@example.org",
            globus_identity_set=[],
        )
    )
    fd = os.memfd_create("payload", os.MFD_CLOEXEC)
    os.write(fd, body)
    return fd, body_digest(body)


class Running:
    """A forked user endpoint, and the monitor's end of its socket."""

    def __init__(self, pid: int, sock: socket.socket, state_dir: Path) -> None:
        self.pid, self.state_dir = pid, state_dir
        self._pidfd = os.pidfd_open(pid)
        self.monitor: Channel[MonitorToChild, ChildToMonitor] = Channel(sock, ChildToMonitor)
        self.notes: list[Note] = []
        self.events: list[TaskEvent] = []  # with task_events=True
        self.status: int | None = None

    def hear(self, timeout_s: float = 20.0) -> Ready | Failed:
        """Wait for Ready or Failed; notes are kept aside."""
        self.monitor.sock.settimeout(timeout_s)
        while True:
            try:
                got = self.monitor.receive()
            except TimeoutError:
                raise AssertionError(f"nothing heard in {timeout_s} s: {self.log()}") from None
            assert got is not None, f"the user endpoint ended without a word: {self.log()}"
            if isinstance(got[0], Note):
                self.notes.append(got[0])
            elif isinstance(got[0], Ready | Failed):
                return got[0]

    def steps(self, task_id: str, *, up_to: str = "ended", timeout_s: float = 60.0) -> list[TaskEvent]:
        """Return what the monitor is told of a task, once it is told of the step `up_to`."""
        self.monitor.sock.settimeout(timeout_s)
        while not any((event.task_id, event.state) == (task_id, up_to) for event in self.events):
            got = self.monitor.receive()
            assert got is not None, f"the user endpoint ended without a word: {self.log()}"
            if isinstance(got[0], TaskEvents):
                self.events += got[0].events
        return [event for event in self.events if event.task_id == task_id]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """Return its exit status (negative: killed by that signal)."""
        if self.status is None:
            ended, _, _ = select.select([self._pidfd], [], [], timeout_s)
            assert ended, f"the user endpoint did not end within {timeout_s} s: {self.log()}"
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def log(self) -> str:
        """Return what it logged so far."""
        path = self.state_dir / "endpoint.log"
        return path.read_text() if path.exists() else "(no log)"

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.status is None:
            self.kill()
            self.wait()
        self.monitor.close()
        os.close(self._pidfd)


def _keep_only(*kept: int) -> None:
    """Close what the test has open: a socket that lives on in a child looks alive to its peer."""
    before = 2
    for fd in sorted(kept):
        os.closerange(before + 1, fd)
        before = fd
    os.closerange(before + 1, os.sysconf("SC_OPEN_MAX"))


def _forget_handlers() -> None:
    """Drop pytest's log handlers, which it hangs on loggers that do not propagate, too: their files are closed."""
    for logger in (logging.getLogger(), *logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()


@contextmanager
def user_endpoint(
    place: Site,
    directory: Path,
    template: str,
    *,
    options: dict[str, Any] | None = None,
    expect_ready: bool = True,
    fresh: bool = False,
    **launch: Any,
) -> Iterator[Running]:
    """Fork a user endpoint for `place`, as the monitor would after the drop (here: the same uid). `fresh`: in an
    interpreter of its own, as with `spawn: exec`."""
    from mep.endpoint import boot

    ours, theirs = channel_pair()
    fd, digest = payload_fd(place.creds(), options or {}, place.seal_key)
    given: dict[str, Any] = {
        "endpoint_id": new_id(),
        "endpoint_name": "test",
        "uep_id": place.uep_id,
        "request_id": new_id(),
        "payload_fd": fd,
        "payload_sha256": digest,
        "monitor_fd": theirs.fileno(),
        "template": template,
        "template_source": "user_config_template.yaml.j2",
        "schema": None,
        "endpoint_config": {},
        "user_name": "alice",
        "uid": os.getuid(),
        "gid": os.getgid(),
        "home": str(directory),
        "state_dir": str(directory),
        **launch,
    }
    pid = os.fork()
    if pid == 0:
        try:
            _keep_only(fd, theirs.fileno())
            _forget_handlers()
            gc.freeze()  # what the test has must not close descriptors here: their numbers change hands
            # pytest's own streams write to descriptors that are closed now, and belong to others in a moment
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            if fresh:
                execute_boot(sys.executable, Launch(**given), {**os.environ, "PYTHONPATH": ":".join(sys.path)})
            os._exit(boot.run(Launch(**given)))
        finally:
            os._exit(99)
    theirs.close()
    os.close(fd)
    running = Running(pid, ours, directory)
    try:
        if expect_ready:
            heard = running.hear()
            assert isinstance(heard, Ready), heard
        yield running
    finally:
        running.close()
