"""REST bodies: what a stock endpoint sends is read, what a stock endpoint reads is sent."""

from __future__ import annotations

import msgspec

from mep.wire import command, rest

ANSWER = (
    b'{"endpoint_id":"e","command_queue_info":{"connection_url":"amqp://ep1:s@b/vh","exchange":"commands",'
    b'"queue":"e.commands"},"heartbeat_queue_info":{"connection_url":"amqp://ep1:s@b/vh","exchange":"heartbeats",'
    b'"queue":"heartbeats","queue_publish_kwargs":{"exchange":"heartbeats","routing_key":"e.heartbeats"}},'
    b'"warnings":["w"],"extra":1}'
)


def test_a_stock_registration_answer_is_read_and_hides_its_password() -> None:
    answer = msgspec.json.decode(ANSWER, type=rest.RegistrationAnswer, dec_hook=command.decode_secret)
    assert answer.command_queue_info.connection_url.reveal() == "amqp://ep1:s@b/vh"
    assert answer.mep is None
    assert "ep1" not in repr(answer)


def test_multi_user_is_said_only_when_true() -> None:
    metadata = rest.RegistrationMetadata(endpoint_version="4", python_version="3", hostname="h", local_user="u")
    single = rest.RegistrationRequest(endpoint_name="n", metadata=metadata, public=False, high_assurance=False)
    document = msgspec.to_builtins(single)
    assert "multi_user" not in document
    assert document["public"] is False
    assert document["high_assurance"] is False
