"""Somebody who has the broker altogether (its administrator's account) starts nothing by start commands, and does
not keep the endpoint from serving."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pika.adapters.blocking_connection import BlockingChannel

from mep.base.ids import new_id
from mep.relay import topology
from mep.relay.auth.keys import Keys
from mep.relay.seals import Seals
from mep.wire import envelope, sealed, signing
from mep.wire.envelope import Result, StatusReport
from mep.wire.sealed import SealedCommand
from mep.wire.signing import StartClaims
from support.endpoint import Endpoint
from support.relay import Relay
from support.remote import WAIT_S, by_source, kill_9, process_id
from support.rigs import MakeEndpoint, SdkEnv
from support.wait import until

pytestmark = pytest.mark.timeout(120)

ALICE, BOB = "alice@example.org", "bob@example.org"


@dataclass
class Adversary:
    """Sees every start command (`spied`), and may publish anything as anybody. `seals`: the relay's, for tests
    of what would hold if the endpoint's key were known, too."""

    channel: BlockingChannel
    queue: str
    seals: Seals

    def spied(self) -> bytes:
        """Return the next start command that the relay sent, as it passed."""
        got: list[Any] = []

        def look() -> bool:
            got[:] = self.channel.basic_get(self.queue, auto_ack=True)
            return got[0] is not None

        until(look, "a start command passes by")
        return bytes(got[2])

    def opened(self, site: Endpoint) -> tuple[bytes, str]:
        """Return the next start command without its seal: body and signature."""
        _, content = self.seals.commands(site.id, 1).open(self.spied())
        command = sealed.decode_command(content)
        return command.body, command.token

    def command(self, site: Endpoint, body: bytes, token: str | None = None) -> None:
        """Put a start command into the endpoint's queue, sealed."""
        content = sealed.encode(SealedCommand(token or "", body))
        self.publish(topology.COMMANDS, site.id, self.seals.commands(site.id, 1).seal(content))

    def plain_command(self, site: Endpoint, body: bytes, token: str) -> None:
        """Put one into it in stock form."""
        self.publish(
            topology.COMMANDS,
            site.id,
            body,
            content_type="application/json",
            timestamp=int(time.time()),
            headers={"mep-signature": token},
        )

    def publish(self, exchange: str, sender: str, body: bytes, **properties: Any) -> None:
        """Publish with the routing key of `sender`."""
        known = pika.BasicProperties(delivery_mode=2, **properties)
        self.channel.basic_publish(exchange, topology.routing_key(sender, exchange), body, known)


@pytest.fixture
def adversary(relay: Relay) -> Iterator[Adversary]:
    assert relay.broker is not None
    with pika.BlockingConnection(pika.URLParameters(relay.broker.amqp.reveal())) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, topology.COMMANDS, "#")
        yield Adversary(channel, queue, Seals(Keys(relay.data_dir).broker_secret))


@dataclass
class Forge:
    """Makes commands out of one that was spied: for another user endpoint, so that a success would show."""

    spied: dict[str, Any]
    endpoint_id: str

    def body(self, **changes: Any) -> bytes:
        """Return a command that would start a user endpoint of a new id."""
        made = json.loads(json.dumps(self.spied)) | changes
        made["kwargs"]["amqp_creds"]["endpoint_id"] = new_id()
        return json.dumps(made).encode()

    def token(self, body: bytes, private: Ed25519PrivateKey, **changes: Any) -> str:
        """Return what the relay would sign for `body`, but for `changes`."""
        command, now = json.loads(body), time.time()
        claims = {
            "aud": self.endpoint_id,
            "jti": new_id(),
            "iat": now,
            "exp": now + 150.0,
            "uep": command["kwargs"]["amqp_creds"]["endpoint_id"],
            "sub": command["globus_effective_identity"],
            "username": command["globus_username"],
            "ids": command["globus_identity_set"],
            "sha256": signing.body_digest(body),
        }
        return signing.sign(StartClaims(**(claims | changes)), private)


def served(site: Endpoint) -> int:
    """Run something as the current user; return the process that it ran in."""
    with by_source(site.id) as executor:
        return int(executor.submit(process_id).result(WAIT_S))


def refused_with(site: Endpoint, code: str, before: str) -> None:
    """Wait until the endpoint's log tells of a refusal that was not there `before`."""
    until(lambda: code in site.log_text()[len(before) :], f"the log tells {code}")


def relays_key(relay: Relay) -> Ed25519PrivateKey:
    """The relay's own key: what it signs with it here are commands that an adversary has withheld."""
    return Keys(relay.data_dir)._start[-1]


def test_forged_start_commands_start_nothing_and_each_refusal_is_logged(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv, adversary: Adversary
) -> None:
    site, other = endpoint("site"), endpoint("other")
    sdk_env(ALICE)
    running = served(site)
    spied, spied_token = adversary.opened(site)
    forge, elsewhere = Forge(json.loads(spied), site.id), Forge(json.loads(spied), other.id)
    bob = [identity | {"username": BOB} for identity in forge.spied["globus_identity_set"]]
    theirs, mine = relays_key(relay), Ed25519PrivateKey.generate()
    good = forge.body()
    as_bob = forge.body(globus_identity_set=bob, globus_username=BOB)
    claims_of_bob = {"username": BOB, "ids": bob}
    head, claims, signature = forge.token(good, theirs).split(".")
    cases: dict[str, tuple[str, bytes, str | None]] = {
        "unsigned": ("COMMAND_UNSIGNED", good, None),
        "signed by a stranger": ("COMMAND_BAD_SIGNATURE", good, forge.token(good, mine)),
        "signed by nobody": ("COMMAND_BAD_SIGNATURE", good, f"{head}.{claims}."),
        "claims changed": ("COMMAND_BAD_SIGNATURE", good, f"{head}.{claims[:-2]}AA.{signature}"),
        "the signature of another command": ("PAYLOAD_MISMATCH", forge.body(), forge.token(good, theirs)),
        "another identity in the body": ("PAYLOAD_MISMATCH", as_bob, forge.token(good, theirs)),
        "another identity in the claims": (
            "COMMAND_BAD_SIGNATURE",
            as_bob,
            forge.token(good, mine, **claims_of_bob),
        ),
        "for another endpoint": ("COMMAND_BAD_SIGNATURE", good, elsewhere.token(good, theirs)),
        "too old": (
            "COMMAND_STALE",
            good,
            forge.token(good, theirs, iat=time.time() - 400, exp=time.time() - 250),
        ),
        "from the future": ("COMMAND_STALE", good, forge.token(good, theirs, iat=time.time() + 400)),
        "10 MB": ("COMMAND_TOO_LARGE", b'{"x": "' + b"x" * 10_000_000 + b'"}', forge.token(good, theirs)),
        "10 MB of signature": ("COMMAND_TOO_LARGE", good, "x" * 100_000),
        "garbage": ("COMMAND_MALFORMED", b"\x00\xff garbage", "\x00garbage"),
        "a command of another kind": ("COMMAND_MALFORMED", forge.body(command="cmd_run_shell"), spied_token),
    }
    for what, (code, body, token) in cases.items():
        before = site.log_text()
        adversary.command(site, body, token)
        try:
            refused_with(site, code, before)
        except AssertionError as error:
            raise AssertionError(f"{what}: {site.log_text()[len(before) :]}") from error
    before = site.log_text()
    adversary.plain_command(site, good, forge.token(good, theirs))
    refused_with(site, "of this one it is not sealed", before)
    assert "Traceback" not in site.log_text()
    assert site.log_text().count(": ready after") == 1
    assert [uep["user"] for uep in site.user_endpoints()] == ["alice"]
    assert served(site) == running
    sdk_env(BOB)
    assert served(site) != running


def test_an_obeyed_command_is_not_obeyed_again_not_even_by_the_next_monitor(
    endpoint: MakeEndpoint, sdk_env: SdkEnv, adversary: Adversary
) -> None:
    site = endpoint("site")
    sdk_env(ALICE)
    served(site)
    recorded = adversary.spied()
    site.mep("stop-user", site.name, "alice")
    until(lambda: not site.user_endpoints(), "alice's user endpoint is gone")
    before = site.log_text()
    adversary.publish(topology.COMMANDS, site.id, recorded)
    refused_with(site, "COMMAND_REPLAYED", before)
    assert site.program is not None
    kill_9(site.program.pid)
    site.program.process.wait(10)
    site.start()
    before = site.log_text()
    adversary.publish(topology.COMMANDS, site.id, recorded)
    refused_with(site, "COMMAND_REPLAYED", before)
    assert site.user_endpoints() == []
    served(site)


def wait_for(path: str) -> str:
    """Runs in the user endpoint: return when the file is there."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.02)
    return "true"


def test_results_and_reports_on_a_strangers_routing_key_change_nothing(
    relay: Relay, endpoint: MakeEndpoint, sdk_env: SdkEnv, adversary: Adversary, open_dir: Path
) -> None:
    site = endpoint("site")
    sdk_env(BOB)
    served(site)
    bobs = site.user_endpoints()[0]
    sdk_env(ALICE)
    with by_source(site.id) as executor:
        future = executor.submit(wait_for, str(open_dir / "go"))
        until(lambda: future.task_id and len(site.user_endpoints()) == 2, "alice's task is on its way")
        assert future.task_id is not None
        alices = next(uep for uep in site.user_endpoints() if uep["user"] == "alice")
        forged = envelope.encode(Result(task_id=future.task_id, data="forged"))
        gone = StatusReport(endpoint_id=alices["uep_id"], global_state={"active": False})
        for sender in (bobs["uep_id"], new_id(), alices["uep_id"], site.id):
            adversary.publish(topology.RESULTS, sender, forged)
            adversary.publish(topology.HEARTBEATS, sender, envelope.encode(gone))
            adversary.publish(topology.RESULTS, sender, b"\x00garbage")
            adversary.publish(topology.HEARTBEATS, sender, b"\x00garbage")
        (open_dir / "go").touch()
        assert future.result(WAIT_S) == "true"
        assert executor.submit(process_id).result(WAIT_S) == alices["pid"]
    assert relay.program is not None
    assert "Traceback" not in relay.program.text()
