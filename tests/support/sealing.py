"""An endpoint and its user endpoints that seal, each step by hand; and an SDK's stream that opens. As the fake
endpoints, which are stock parts."""

from __future__ import annotations

from typing import Any

from mep.base.secrets import Secret
from mep.wire import envelope, seal, sealed
from mep.wire.envelope import Result, StatusReport
from mep.wire.rest import HEADER_SEALS
from mep.wire.seal import Sealer
from mep.wire.sealed import SealedTask
from support.fake_endpoint import WAIT_S, Command, FakeEndpoint, FakeUep, Http, Reader, registration

SEALS = {HEADER_SEALS: "1"}


class SealingUep(FakeUep):
    """Opens its tasks, seals what it says."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.creds)
        self.key = Secret(command.document["kwargs"]["seal_key"])
        self._sealers: dict[str, Sealer] = {}

    def sealer(self, purpose: str) -> Sealer:
        return self._sealers.setdefault(purpose, Sealer(self.key, purpose, self.id))

    def sealed_report(self, **state: Any) -> bytes:
        state = {"active": True, "heartbeat_period": 30.0, **state}
        return self.sealer(seal.REPORT).seal(
            envelope.encode(StatusReport(endpoint_id=self.id, global_state=state))
        )

    def report(self, **state: Any) -> None:
        self.publish(self.creds["heartbeat_queue_info"], self.sealed_report(**state))

    def take_sealed(self) -> SealedTask:
        """Take and acknowledge the next task."""
        found = self.next_message(self.creds["task_queue_info"]["queue"], exclusive=True)
        assert found is not None, "no task came"
        method, self.properties, body = found
        self.channel.basic_ack(method.delivery_tag)
        return sealed.decode_task(self.sealer(seal.TASK).open(body)[1])

    def sealed_result(self, task_id: str, data: str) -> bytes:
        return self.sealer(seal.RESULT).seal(envelope.encode(Result(task_id=task_id, data=data)))


class SealingEndpoint(FakeEndpoint):
    """Opens start commands, seals notices."""

    def register(self, **fields: Any) -> SealingEndpoint:
        method, path = ("PUT", f"/v3/endpoints/{self.id}") if self.id else ("POST", "/v3/endpoints")
        self.answer = self.owner.ok(method, path, json=registration(**fields), headers=SEALS)
        self.id = self.answer["endpoint_id"]
        key = Secret(self.answer["mep"]["seal_key"])
        self.commands = Sealer(key, seal.COMMAND, self.id)
        self.notices = Sealer(key, seal.NOTICE, self.id)
        return self

    def sealed_notice(self, about: str, **state: Any) -> bytes:
        return self.notices.seal(envelope.encode(StatusReport(endpoint_id=about, global_state=state)))

    def say(self, body: bytes) -> None:
        """Publish anything as a report."""
        assert self.peer is not None
        self.peer.publish(self.answer["heartbeat_queue_info"], body)

    def notice(self, about: str, **state: Any) -> None:
        self.say(self.sealed_notice(about, **state))

    def opened(self, command: bytes) -> bytes:
        return sealed.decode_command(self.commands.open(command)[1]).body

    def start_sealing(self) -> SealingUep:
        """Take a command and become its user endpoint."""
        command = self.command()
        assert command is not None, "no start command came"
        uep = SealingUep(command)
        uep.report()
        return uep


class OpeningReader(Reader):
    """Reads a group's queue as an SDK with a key does."""

    def __init__(self, person: Http, group_id: str) -> None:
        super().__init__(person, group_id)
        told = person.ok("GET", "/v2/get_amqp_result_connection_url", headers=SEALS)
        self._sealer = Sealer(Secret(told["seal_key"]), seal.DELIVERY, group_id)

    def raw(self, *, wait_s: float = WAIT_S) -> bytes | None:
        """Return the next message as it passes."""
        found = self.next_message(self.queue, wait_s=wait_s)
        if found is None:
            return None
        self.channel.basic_ack(found[0].delivery_tag)
        return found[2]

    def result(self, *, wait_s: float = WAIT_S) -> Result | None:
        body = self.raw(wait_s=wait_s)
        if body is None:
            return None
        result = envelope.decode(self._sealer.open(body)[1])
        assert isinstance(result, Result)
        return result
