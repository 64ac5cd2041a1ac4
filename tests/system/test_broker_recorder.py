"""Somebody who has the broker altogether, and records all that passes, learns nothing but ids, sizes and times;
and what they say, or say again, runs nothing and is believed by nobody."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from mep import Executor
from mep.base.ids import new_id
from mep.relay import topology
from mep.relay.auth.keys import Keys
from mep.relay.seals import Seals
from mep.sdk.errors import TaskExecutionFailed
from mep.serialize import JSONData, PureSourceTextInspect, Serializer, serialize_result
from mep.wire import command, envelope, sealed
from mep.wire.envelope import HEADER_FUNCTION, HEADER_TASK, Result, StatusReport, Task
from mep.wire.packing import pack
from mep.wire.seal import is_sealed
from support.broker import manage
from support.relay import Relay
from support.remote import WAIT_S, process_id
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE = "alice@example.org"
TEMPLATE = "display_name: {{ note }}\nengine:\n  type: ThreadPoolEngine\n  max_workers: 2\n"


@dataclass
class Message:
    """One message on its way to an exchange ("": straight to a queue)."""

    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes


class Recorder:
    """Gets a copy of every message that anybody publishes, and publishes as anybody."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        self._queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(self._queue, "amq.rabbitmq.trace", "publish.#")
        self.messages: list[Message] = []

    def record(self) -> list[Message]:
        """Return all messages so far."""
        while True:
            method, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is None or properties is None:
                return self.messages
            told = properties.headers
            (key,) = told["routing_keys"]
            self.messages.append(Message(told["exchange_name"], key, told["properties"], body))

    def seen(self, exchange: str) -> bool:
        return any(message.exchange == exchange for message in self.record())

    def say(self, exchange: str, key: str, body: bytes, **properties: Any) -> None:
        known = pika.BasicProperties(delivery_mode=2, **properties)
        self._channel.basic_publish(exchange, key, body, known)

    def say_again(self, messages: list[Message]) -> None:
        """Publish recordings, as they were."""
        for message in messages:
            fields = {"content_type": message.properties.get("content_type")}
            told = ("headers", "timestamp")
            fields |= {name: message.properties[name] for name in told if name in message.properties}
            self.say(message.exchange, message.routing_key, message.body, **fields)


@pytest.fixture
def recorder(relay: Relay) -> Iterator[Recorder]:
    assert relay.broker is not None
    vhost = urlsplit(relay.broker.amqp.reveal()).path.strip("/")
    manage(relay.broker, "PUT", f"/vhosts/{vhost}", {"tracing": True})
    with pika.BlockingConnection(pika.URLParameters(relay.broker.amqp.reveal())) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        yield Recorder(channel)
    manage(relay.broker, "PUT", f"/vhosts/{vhost}", {"tracing": False})


def readable(site_id: str, **options: Any) -> Executor:
    """Everything of its tasks would be plain text, but for the seal."""
    serializer = Serializer(PureSourceTextInspect, JSONData)
    return Executor(site_id, serializer=serializer, result_serializers=[JSONData], **options)


def backwards(text: str) -> str:
    """Runs in the user endpoint. PLANTED-IN-SOURCE"""
    return text[::-1]


def fails_with(text: str) -> None:
    """Runs in the user endpoint."""
    raise ValueError(text)


def shapes(text: str) -> list[bytes]:
    """Return how `text` may look in a message: as it is, and inside base64 at each offset."""
    raw = text.encode()
    whole = [(base64.b64encode(b"\0" * shift + raw), shift) for shift in range(3)]
    return [raw, *(coded[-(-8 * shift // 6) : 8 * (shift + len(raw)) // 6] for coded, shift in whole)]


def test_who_records_all_that_passes_finds_no_text_of_a_user_no_identity_and_no_password(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv, recorder: Recorder
) -> None:
    site = endpoint("site", template=TEMPLATE, config={"heartbeat_period": 5})
    site_id, seals = site.id, Seals(Keys(relay.data_dir).broker_secret)
    sdk_env(ALICE)
    with readable(site_id, user_endpoint_config={"note": "PLANTED-OPTION"}) as executor:
        assert executor.submit(backwards, "PLANTED-ARGUMENT").result(WAIT_S) == "TNEMUGRA-DETNALP"
        with pytest.raises(TaskExecutionFailed, match="PLANTED-ERROR"):
            executor.submit(fails_with, "PLANTED-ERROR").result(WAIT_S)
    with (
        readable(site_id, user_endpoint_config={"note": {"PLANTED-MISTAKE": 1}}) as executor,
        pytest.raises(TaskExecutionFailed, match="CONFIG"),
    ):
        executor.submit(backwards, "").result(WAIT_S)
    site.mep("stop-user", site.name, "alice")
    until(lambda: not site.user_endpoints(), "alice's user endpoint is gone")
    site.stop()
    seen = recorder.record()
    assert {message.exchange for message in seen} == {"", *topology.EXCHANGES}, "it has seen every way"
    assert [message for message in seen if not is_sealed(message.body)] == []
    first = next(message for message in seen if message.exchange == topology.COMMANDS)
    start = command.decode(sealed.decode_command(seals.commands(site_id, 1).open(first.body)[1]).body)
    password = urlsplit(start.kwargs.amqp_creds.task_queue_info.connection_url.reveal()).password
    assert password
    assert start.globus_username == ALICE
    secrets = ["PLANTED", "DETNALP", "alice", "example.org", password, "backwards", "config_raw", "hostname"]
    for message in seen:
        whole = message.body + repr((message.routing_key, message.properties)).encode()
        for secret in secrets:
            assert not [shape for shape in shapes(secret) if shape in whole], f"{secret} in {message}"
        assert not message.properties.get("headers"), "a header says something"


def add_line(path: str) -> int:
    """Runs in the user endpoint: leave a trace; return how many there are."""
    with open(path, "a") as file:
        file.write("ran\n")
    with open(path) as file:
        return len(file.readlines())


def wait_for(path: str) -> str:
    """Runs in the user endpoint: return when the file is there."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.02)
    return "true"


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_what_is_forged_or_recorded_runs_nothing_and_nobody_believes_it(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv, recorder: Recorder, open_dir: Path
) -> None:
    site = endpoint("site", config={"heartbeat_period": 5})
    sdk_env(ALICE)
    shared = open_dir / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    trace, bombed = shared / "trace", shared / "bombed"
    with readable(site.id) as executor:
        assert executor.submit(add_line, str(trace)).result(WAIT_S) == 1
        (alices,) = site.user_endpoints()
        before = list(recorder.record())
        waiting = executor.submit(wait_for, str(shared / "go"))
        until(lambda: waiting.task_id, "the relay has it")
        assert waiting.task_id is not None
        recorder.say_again(before)
        forge(recorder, alices["uep_id"], site.id, waiting.task_id, waiting.task_group_id, trace, bombed, before)
        assert executor.submit(process_id).result(WAIT_S) == alices["pid"], "nobody was started or ended"
        assert not waiting.done()
        (shared / "go").touch()
        assert waiting.result(WAIT_S) == "true"
    site.mep("stop-user", site.name, "alice")
    until(lambda: not site.user_endpoints(), "alice's user endpoint is gone")
    recorder.say_again(before)
    until(lambda: "COMMAND_REPLAYED" in site.log_text(), "the start command came again")
    assert site.user_endpoints() == []
    with readable(site.id) as executor:
        assert executor.submit(process_id).result(WAIT_S) != alices["pid"]
    assert trace.read_text() == "ran\n"
    assert not bombed.exists()
    assert relay.program is not None
    assert "Traceback" not in relay.program.text() + site.log_text()


def forge(
    recorder: Recorder,
    uep_id: str,
    site_id: str,
    task_id: str,
    group_id: str | None,
    trace: Path,
    bombed: Path,
    recorded: list[Message],
) -> None:
    """Say everything that would be believed without seals, under the names of those whom it concerns."""
    headers = {HEADER_TASK: new_id(), HEADER_FUNCTION: new_id()}
    by_source = Serializer(PureSourceTextInspect)  # what could not be read there would prove nothing
    buffer = pack([by_source.serialize(add_line)]) + by_source.pack_arguments((str(trace),), {})
    task = envelope.encode(Task(task_id=headers[HEADER_TASK], task_buffer=buffer))
    recorder.say(topology.TASKS, f"{uep_id}.tasks", task, headers=headers)
    result = envelope.encode(Result(task_id=task_id, data=serialize_result(Bomb(bombed))))
    recorder.say(topology.RESULTS, f"{uep_id}.results", result)
    queues = {message.routing_key for message in recorded if message.exchange == ""}
    assert any(group_id in queue for queue in queues if group_id)
    for queue in queues:
        recorder.say("", queue, result)
    for about, sender in ((uep_id, uep_id), (uep_id, site_id), (site_id, site_id)):
        for state in ({"active": False}, {"error": "forged", "active": False}, {"heartbeat_period": 0}):
            report = envelope.encode(StatusReport(endpoint_id=about, global_state=state))
            recorder.say(topology.HEARTBEATS, f"{sender}.heartbeats", report)


def test_results_of_a_high_assurance_endpoint_pass_no_queue_of_a_submitter(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv, recorder: Recorder
) -> None:
    site, seals = endpoint("assured", config={"high_assurance": True}), Seals(Keys(relay.data_dir).broker_secret)
    sdk_env(ALICE)
    with readable(site.id) as executor:
        assert executor.submit(backwards, "PLANTED-ARGUMENT").result(WAIT_S) == "TNEMUGRA-DETNALP"
        with pytest.raises(TaskExecutionFailed, match="PLANTED-ERROR"):
            executor.submit(fails_with, "PLANTED-ERROR").result(WAIT_S)
        group = executor.task_group_id
    (prefix,) = {m.routing_key.removesuffix(str(group)) for m in recorder.record() if m.exchange == ""}
    opener = seals.deliveries(prefix.split(".")[1], str(group))
    told = [envelope.decode(opener.open(m.body)[1]) for m in recorder.messages if m.exchange == ""]
    assert len(told) == 2
    for message in told:
        assert isinstance(message, Result)
        assert message == envelope.announcement(message.task_id)
