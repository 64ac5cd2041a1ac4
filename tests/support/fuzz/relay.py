"""Targets: what the relay reads besides what its routes are fuzzed with whole (tests/integration/test_rest_*)."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from typing import Any, cast

import msgspec

from mep.base.errors import InputError
from mep.relay import liveness, registration, submit, taskview
from mep.relay.amqp import Incoming
from mep.relay.auth.bearer import Authenticator
from mep.relay.auth.grants import AuthorizeRequest, Grants, OAuthError
from mep.relay.errors import HttpError
from mep.relay.results import Results
from mep.relay.routes import endpoints, functions, oauth, tasks
from mep.relay.routes import submit as submit_route
from mep.relay.routes.common import answer, body_as
from mep.relay.store.accounts import Identity
from mep.relay.store.endpoints import Endpoint
from mep.relay.store.tasks import TaskState
from mep.wire import envelope
from support.fuzz.core import Target, as_json
from support.fuzz.wire import ENDPOINT, MESSAGES, OLD_REPORT, UEP, WHO

SUBMIT = {
    "tasks": {WHO: ["1\na1\nb"]},
    "task_group_id": UEP,
    "create_queue": True,
    "user_endpoint_config": {"n": 1},
    "resource_specification": {"a": 1},
    "user_runtime": {"python_version": "3.11.2", "globus_compute_sdk_version": "4"},
}
REGISTRATION = {
    "endpoint_name": "e",
    "metadata": {"endpoint_version": "4.1", "user_config_schema": {"type": "object"}},
    "public": True,
    "allowed_functions": [WHO],
    "admins": [WHO],
}
OWNER = Identity(id=WHO, username="alice")


class _Request:
    """As much of a request as a body is read by."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def body(self) -> bytes:
        return self._body


def _submitted(data: bytes) -> object:
    """Up to the user endpoint's id; what is stored can be stored, and said in a start command."""
    body = submit.decode(data)
    endpoint = Endpoint(id=ENDPOINT, owner_id=WHO, name="e")
    record = submit._derive(endpoint, OWNER, bytes(body.user_endpoint_config), bytes(body.user_runtime))
    msgspec.json.encode([json.loads(record.options), json.loads(record.runtime)])
    return record


def _registered(data: bytes) -> object:
    """It can be stored, and shown again."""
    endpoint, _ = registration._described(ENDPOINT, OWNER, registration.decode(data), None)
    text = json.dumps([endpoint.metadata, endpoint.schema, endpoint.admins])
    return answer(json.loads(text))


def _body(decoder: Any) -> Any:
    def run(data: bytes) -> object:
        return answer(msgspec.to_builtins(asyncio.run(body_as(cast(Any, _Request(data)), decoder))))

    return run


def _read_report(_sender: str, report: envelope.StatusReport) -> None:
    liveness._number(report.global_state.get("heartbeat_period"), 30.0)


class _Quiet(Results):
    """What reads result messages, without a broker or a store behind it."""

    def __init__(self) -> None:
        self._owed = set()
        self._on_report = _read_report


def _result(data: bytes) -> object:
    """What is accepted can be shown as a task document, and sent on."""
    arrived = _Quiet()._read(Incoming(sender=UEP, body=data, headers={}, redelivered=False))
    if arrived is None:
        return None
    assert isinstance(envelope.decode(arrived.body), envelope.Result)
    return _shown(arrived.body)


def _shown(body: bytes) -> object:
    state = TaskState(
        id=UEP, group_id=UEP, identity_id=WHO, uep_id=UEP, uep_state="up", created=time.time(), done=1e9, body=body
    )
    return answer(taskview.document(state))


class _NoStore:
    async def read(self, _job: Any) -> Any:
        return None


def _basic(data: bytes) -> object:
    """As the header, and as what is encoded in it."""
    authenticator = Authenticator(cast(Any, _NoStore()))
    for header in (data.decode("latin-1"), f"Basic {data.decode('latin-1')}", f"Basic {b64encode(data).decode()}"):
        assert asyncio.run(authenticator.client(header)) is None
    return None


def _form(data: bytes) -> object:
    form = asyncio.run(oauth._form(cast(Any, _Request(data))))
    asked = oauth._asked(form)
    again = msgspec.json.decode(msgspec.json.encode(asked), type=AuthorizeRequest)
    assert again == asked
    return asked


def _grant(data: bytes) -> object:
    form = asyncio.run(oauth._form(cast(Any, _Request(data))))
    store = cast(Any, _NoStore())
    grants = Grants(store, Authenticator(store), cast(Any, None))
    return asyncio.run(grants.exchange(form, None, basic_given=False, issuer="i"))


TARGETS: list[Target] = [
    Target(
        "submit",
        _submitted,
        ("relay/submit.py:_decoder", "relay/submit.py:decode", "relay/submit.py:_value"),
        as_json(SUBMIT),
        refuses=(HttpError, InputError),
    ),
    Target(
        "registration",
        _registered,
        ("relay/registration.py:_decoder", "relay/registration.py:decode"),
        as_json(REGISTRATION),
        refuses=(HttpError,),
    ),
    Target(
        "function",
        _body(functions._body),
        ("relay/routes/functions.py:_body", "relay/routes/common.py:body_as"),
        as_json({"function_name": "f", "function_code": "c", "meta": {"a": 1}}),
        refuses=(HttpError,),
    ),
    Target(
        "batch",
        _body(tasks._batch),
        ("relay/routes/tasks.py:_batch",),
        as_json({"task_ids": [UEP]}),
        refuses=(HttpError,),
    ),
    Target(
        "old submit",
        _body(submit_route._old),
        ("relay/routes/submit.py:_old",),
        as_json({"tasks": [[WHO, ENDPOINT, "p"]]}),
        refuses=(HttpError,),
    ),
    Target(
        "allow list",
        _body(endpoints._functions),
        ("relay/routes/endpoints.py:_functions",),
        as_json({"func": [WHO]}),
        refuses=(HttpError,),
    ),
    Target(
        "result message",
        _result,
        ("relay/results.py:_id_decoder", "relay/results.py:Results._read", "relay/taskview.py:_decoder"),
        (*map(envelope.encode, MESSAGES), OLD_REPORT),
    ),
    Target("HTTP Basic", _basic, ("relay/auth/bearer.py:Authenticator.client",), (b"Basic Yzpz", b"c:s")),
    Target(
        "login form",
        _form,
        ("relay/routes/oauth.py:_form",),
        (
            b"client_id=c&redirect_uri=http://localhost:1/x&scope=openid&code_challenge=abc&code_challenge_method=S256",
        ),
        refuses=(OAuthError, HttpError),
    ),
    Target(
        "token form",
        _grant,
        (),
        (
            b"grant_type=refresh_token&refresh_token=t",
            b"grant_type=authorization_code&code=c&client_id=c&code_verifier=v",
        ),
        refuses=(OAuthError, HttpError),
        takes_seeds=False,
    ),
]
