"""The floor: what broker, fork and setuid cost with nothing of mep around them, on a broker node of its own."""

from __future__ import annotations

import asyncio
import os
import pwd
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pika

from mep.base.secrets import Secret
from mep.broker import BrokerConnection
from mep.relay.rabbit import PrivateRabbit

MESSAGES = 5000
BODY = b"x" * 500
_USER = "u200"


def measure(repeats: int) -> dict[str, Any]:
    """Return rates (messages/s) and the seconds of fork + setuid + connect + one task (median of `repeats`)."""
    with tempfile.TemporaryDirectory(prefix="mep-floor-") as folder:
        return asyncio.run(_measure(Path(folder), repeats))


async def _measure(folder: Path, repeats: int) -> dict[str, Any]:
    node = PrivateRabbit(folder)
    address = await node.start()
    try:
        url = address.amqp.reveal()
        rates = {"publisher_per_s": await _publisher_rate(url)}
        return {"task_s": _fork_floor(url, repeats), **rates, **_pika_rates(url)}
    finally:
        await node.stop()


async def _publisher_rate(url: str) -> float:
    """Our confirmed publisher, all messages handed over at once."""
    _declare(url, "ours")
    connection = BrokerConnection(Secret(url), name="bench")
    connection.open()
    await connection.wait_open(10)
    publisher = connection.publisher()
    began = time.perf_counter()
    for _ in range(MESSAGES):
        publisher.publish("", "ours", BODY, properties={"delivery_mode": 2})
    await publisher.drain()
    seconds = time.perf_counter() - began
    await connection.close()
    return MESSAGES / seconds


def _pika_rates(url: str) -> dict[str, float]:
    """Plain pika, blocking: publish without confirms, then consume all of it."""
    _declare(url, "plain")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    began = time.perf_counter()
    for _ in range(MESSAGES):
        channel.basic_publish("", "plain", BODY)
    published = time.perf_counter() - began
    began, left = time.perf_counter(), MESSAGES
    for _method, _properties, _body in channel.consume("plain", auto_ack=True):
        left -= 1
        if not left:
            break
    consumed = time.perf_counter() - began
    channel.cancel()
    connection.close()
    return {"pika_publish_per_s": MESSAGES / published, "pika_consume_per_s": MESSAGES / consumed}


def _fork_floor(url: str, repeats: int) -> float:
    """Fork a warm process, become a user, connect, take one task, publish its result; until the result is here."""
    _declare(url, "floor-tasks")
    _declare(url, "floor-results")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    account, seconds = pwd.getpwnam(_USER), []
    for _ in range(repeats):
        channel.basic_publish("", "floor-tasks", b"1 + 1")
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            _child(url, account)
        for _method, _properties, _body in channel.consume("floor-results", auto_ack=True):
            break
        seconds.append(time.perf_counter() - began)
        channel.cancel()
        os.waitpid(pid, 0)
    connection.close()
    return statistics.median(seconds)


def _child(url: str, account: pwd.struct_passwd) -> None:
    try:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        own = pika.BlockingConnection(pika.URLParameters(url)).channel()
        method, _, body = own.basic_get("floor-tasks")
        value = sum(int(part) for part in body.decode().split("+"))
        own.basic_publish("", "floor-results", str(value).encode())
        own.basic_ack(method.delivery_tag)
        own.connection.process_data_events(0)
    finally:
        os._exit(0)


def _declare(url: str, queue: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_declare(queue, durable=True)
    connection.close()
