"""The broker's management API: users with narrow grants, made in one round trip.

urllib3 in a few threads of its own, with kept connections: it is a dependency already, speaks TLS to an external
broker, and the hop to a thread (0.1 ms) does not show beside the broker's own 5 ms.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3

from mep.base.codes import Code
from mep.base.errors import ServiceError
from mep.base.secrets import Secret
from mep.broker.backoff import Backoff
from mep.relay import topology
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.topology import Grants

_CONNECTIONS = 4


class BrokerAdmin:
    """Makes and removes broker users. Every method raises ServiceError: BROKER_UNREACHABLE if there is no answer,
    BROKER_REFUSED if the answer is no (an external broker's account must have the `administrator` tag).

    All but `check` try for `patience_s`: a broker that starts again is back within 10 s.
    """

    def __init__(self, address: BrokerAddress, *, timeout_s: float = 15.0, patience_s: float = 20.0) -> None:
        parts = urlsplit(address.management.reveal())
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._vhost = address.vhost
        self._base = parts.path.rstrip("/") + "/api"
        self._patience_s = patience_s
        self._headers = {
            **urllib3.make_headers(basic_auth=f"{user}:{password}"),
            "Content-Type": "application/json",
        }
        options: dict[str, Any] = {
            "maxsize": _CONNECTIONS,
            "block": True,
            "timeout": urllib3.Timeout(timeout_s),
            # what is asked for here may be asked twice: one more try where a kept connection turns out to be dead
            "retries": urllib3.Retry(total=1, redirect=False, allowed_methods=None),
        }
        host = parts.hostname or ""
        self._pool = (
            urllib3.HTTPSConnectionPool(host, parts.port, ssl_context=ssl.create_default_context(), **options)
            if parts.scheme == "https"
            else urllib3.HTTPConnectionPool(host, parts.port, **options)
        )
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="broker-admin")

    async def ensure_user(self, grants: Grants, password: Secret) -> None:
        """Make the user, or set its password and grants; its open connections live on.

        Three or four requests on one connection, in one hop to a thread: 5 ms. The one request that could do it
        all (`POST /api/definitions`) takes 15 ms, and pays off from some five users on.
        """
        await self._run(self._ensure_user_now, grants, password)

    async def delete_user(self, user: str) -> bool:
        """Remove the user; the broker closes its connections. False if there was none."""
        return await self._call("DELETE", f"/users/{quote(user, safe='')}", missing_ok=True) is not None

    async def delete_queue(self, queue: str) -> bool:
        """Remove a queue with what is in it. False if there was none."""
        return await self._call("DELETE", f"/queues/{self._in_vhost(queue)}", missing_ok=True) is not None

    async def check(self) -> str:
        """Return the broker's version; raises if this account may not administer users."""
        overview = await self._hop(self._call_now, "GET", "/overview")
        who = await self._hop(self._call_now, "GET", "/whoami")
        tags = who["tags"] if isinstance(who["tags"], list) else str(who["tags"]).split(",")
        if "administrator" not in tags:
            raise ServiceError(
                Code.BROKER_REFUSED,
                f"The broker account {who['name']!r} cannot make users: it needs the tag `administrator`.",
            )
        return str(overview["rabbitmq_version"])

    def close(self) -> None:
        """Give up the kept connections and threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    # ---- inside ----

    def _in_vhost(self, name: str) -> str:
        return f"{quote(self._vhost, safe='')}/{quote(name, safe='')}"

    def _ensure_user_now(self, grants: Grants, password: Secret) -> None:
        user, vhost = quote(grants.user, safe=""), quote(self._vhost, safe="")
        self._call_now("PUT", f"/users/{user}", _account(password))
        # before the permission to write: at no moment may it write more than in the end
        for topic in _topics(grants):
            self._call_now("PUT", f"/topic-permissions/{vhost}/{user}", topic)
        self._call_now("PUT", f"/permissions/{vhost}/{user}", _permissions(grants))

    async def _hop(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Do `function` in a thread; again while the broker does not answer, until the patience ends."""
        backoff = Backoff(0.1, 2.0)
        end = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await self._hop(function, *args)
            except ServiceError as error:
                delay_s = backoff.next_s()
                if error.code is not Code.BROKER_UNREACHABLE or asyncio.get_running_loop().time() + delay_s > end:
                    raise
            await asyncio.sleep(delay_s)

    async def _call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Return the decoded answer ({} for an empty one; None for a 404 with `missing_ok`)."""
        return await self._run(self._call_now, method, path, body, missing_ok)

    def _call_now(self, method: str, path: str, body: Any = None, missing_ok: bool = False) -> Any:  # noqa: FBT001, FBT002
        data = None if body is None else json.dumps(body)
        try:
            answer = self._pool.urlopen(method, self._base + path, body=data, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(
                Code.BROKER_UNREACHABLE,
                "The broker's management API does not answer.",
                admin_text=f"{method} {self._pool.host}:{self._pool.port}{self._base}{path}: {error}",
            ) from None
        if answer.status == 404 and missing_ok:
            return None
        if answer.status >= 300:
            starting = answer.status >= 500  # its listeners are up before the rest is
            raise ServiceError(
                Code.BROKER_UNREACHABLE if starting else Code.BROKER_REFUSED,
                "The broker refused an administrative request.",
                admin_text=f"{method} {self._base}{path}: {answer.status} {answer.data[:300]!r}",
            )
        return json.loads(answer.data) if answer.data else {}


def _account(password: Secret) -> dict[str, Any]:
    return {
        "password_hash": password_hash(password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }


def _permissions(grants: Grants) -> dict[str, str]:
    return {"configure": grants.configure, "write": grants.write, "read": grants.read}


def _topics(grants: Grants) -> list[dict[str, str]]:
    return [
        {"exchange": exchange, "write": keys, "read": topology.NOTHING} for exchange, keys in grants.topics.items()
    ]


def password_hash(password: Secret) -> str:
    """Return the form in which RabbitMQ stores a password: base64 of 4 salt bytes and SHA-256(salt + password)."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.reveal().encode()).digest()).decode()
