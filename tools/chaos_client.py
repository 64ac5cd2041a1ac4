"""One user's program in the chaos: submits tasks over a span of time, writes down how each future ended.

    chaos_client.py JSON    (the fields of `Job`)

Ends by itself when every future is done; SIGTERM means: what is not done by now hangs. It uses nothing but the
public SDK.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mep import Client, Executor
from mep.sdk.futures import ComputeFuture

KINDS = {"quick": 2, "slow": 7, "raising": 1}  # and how often


@dataclass(frozen=True)
class Job:
    """What one client does. `ran`: the file in which its tasks note it; `outcomes`: how futures end."""

    name: str
    relay_url: str
    token: str
    endpoint_id: str
    amqp_port: int
    options: dict[str, Any]
    tasks: int
    span_s: float
    burst: int
    seed: str
    ran: str
    outcomes: str

    def as_text(self) -> str:
        return json.dumps(asdict(self))


def work(marker: str, kind: str, path: str) -> str:
    """Runs on the endpoint: note the start, work, note the end, return what only this marker gives."""
    import hashlib
    import os
    import time

    def note(word: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{word} {marker} {os.getpid()} {time.time():.3f}\n".encode())
        os.close(fd)

    note("began")
    if kind == "slow":
        time.sleep(0.05)
    value = hashlib.sha256(marker.encode()).hexdigest()
    note("ended")
    if kind == "raising":
        raise LookupError(value)
    return value


class Book:
    """The outcomes, one JSON line each, written when they come."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1)  # noqa: SIM115 - ours to the end
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, ComputeFuture]] = {}

    def expect(self, marker: str, kind: str, future: ComputeFuture) -> None:
        with self._lock:
            self._open[marker] = (kind, future)
        future.add_done_callback(lambda done: self._ended(marker, kind, done))

    def _ended(self, marker: str, kind: str, future: Any) -> None:
        error = future.exception()
        told: dict[str, Any] = {"marker": marker, "kind": kind, "task_id": future.task_id, "at": time.time()}
        if error is None:
            told["value"] = future.result()
        else:
            told |= {"error": type(error).__name__, "code": str(getattr(error, "code", "")), "text": str(error)}
        self._write(told)
        with self._lock:
            self._open.pop(marker, None)

    def wait(self, interrupted: threading.Event) -> None:
        """Return when nothing is open, or at the interruption."""
        while not interrupted.wait(0.1):
            with self._lock:
                if not self._open:
                    return

    def close(self) -> int:
        """Write down what is still open; return how many that are."""
        with self._lock:
            left = dict(self._open)
        for marker, (kind, future) in left.items():
            if not future.done():
                self._write({"marker": marker, "kind": kind, "task_id": future.task_id, "hangs": True})
        return len(left)

    def _write(self, told: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(told) + "\n")


def main() -> int:
    job = Job(**json.loads(sys.argv[1]))
    chance = random.Random(job.seed)
    interrupted = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: interrupted.set())
    client = Client(relay_url=job.relay_url, token=job.token)
    executor = Executor(
        job.endpoint_id, client, user_endpoint_config=job.options, amqp_port=job.amqp_port, label=job.name
    )
    book = Book(job.outcomes)
    began, sent = time.monotonic(), 0
    while sent < job.tasks and not interrupted.is_set():
        for _ in range(min(chance.randint(1, 2 * job.burst), job.tasks - sent)):
            marker = f"{job.name}.{sent}"
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            book.expect(marker, kind, executor.submit(work, marker, kind, job.ran))
            sent += 1
        interrupted.wait(max(began + job.span_s * sent / job.tasks - time.monotonic(), 0.0))
    book.wait(interrupted)
    hanging = book.close()
    sys.stdout.flush()
    os._exit(1 if hanging else 0)  # what hangs would hold us, too


if __name__ == "__main__":
    sys.exit(main())
