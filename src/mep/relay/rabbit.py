"""A private RabbitMQ node as the relay's child: started, watched, started again, ended with it.

This file runs programs: `epmd` (the name service that every Erlang node needs; ours, on a port of its own) and
`rabbitmq-server`. Both get SIGKILL from the kernel when the relay ends, however it ends: what the broker has
confirmed survives that. No system-wide RabbitMQ is touched.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError, ServiceError
from mep.base.secrets import Secret
from mep.broker.backoff import Backoff
from mep.relay.brokeraddress import BrokerAddress
from mep.relay.notifysocket import NotifySocket
from mep.relay.proc import Child, ProcessKey, kill_session
from mep.relay.rabbitfiles import ADMIN_USER, NodeFiles, Ports, Programs, find_programs, write_private

log = logging.getLogger(__name__)

_TIED = str(Path(__file__).with_name("tied.py"))
_STOP_TIMEOUT_S = 20.0  # a clean stop takes 6 s


class PrivateRabbit:
    """The node that lives in `data_dir`/rabbitmq. `start` and `stop` once each, on a running loop.

    `start` must be called on the thread that lives as long as the process (the main thread): the kernel ends
    the node when the thread that started it ends. A node that dies is started again, on the same ports.
    """

    def __init__(self, data_dir: Path, *, on_state: Callable[[bool], None] | None = None) -> None:
        self._files = NodeFiles(data_dir / "rabbitmq")
        self._on_state = on_state
        self._programs: Programs | None = None
        self._ports: Ports | None = None
        self._epmd: Child | None = None
        self._node: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lock_fd = -1

    @property
    def address(self) -> BrokerAddress:
        """Where the running node is and who administers it."""
        assert self._ports is not None, "not started"
        password = self._files.password()
        return BrokerAddress(
            amqp=Secret(f"amqp://{ADMIN_USER}:{password}@127.0.0.1:{self._ports.amqp}/%2F"),
            management=Secret(f"http://{ADMIN_USER}:{password}@127.0.0.1:{self._ports.management}"),
        )

    @property
    def pid(self) -> int:
        """The node's process id; 0 while there is none."""
        return self._node.pid if self._node is not None else 0

    async def start(self, *, timeout_s: float = 120.0) -> BrokerAddress:
        """Start the node and return once it takes connections (7-10 s, most of it CPU).

        ServiceError(BROKER_UNREACHABLE) if RabbitMQ is not installed or does not start, HostError(ALREADY_RUNNING)
        if another process has the data directory.
        """
        self._programs = find_programs()
        self._files.make()
        self._take_lock()
        try:
            await self._end_stale()
            self._ports = self._files.ports()
            self._files.write(self._ports)
            await self._launch(timeout_s)
        except BaseException:
            await self.stop()
            raise
        self._keeper = asyncio.create_task(self._keep(timeout_s), name="rabbitmq keeper")
        return self.address

    async def stop(self) -> None:
        """End the node cleanly (6 s), then its name service; by force after 20 s."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._node is not None:
            await self._node.end(signal.SIGTERM, _STOP_TIMEOUT_S)
        if self._epmd is not None:
            await self._epmd.end(signal.SIGTERM, 2.0)
        self._node = self._epmd = None
        if self._lock_fd >= 0:
            self._files.record.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = -1

    # ---- inside ----

    async def _keep(self, timeout_s: float) -> None:
        """Start the node again whenever it ends by itself."""
        backoff = Backoff(0.2, 30.0)
        while True:
            assert self._node is not None
            status = await asyncio.shield(self._node.ended)  # a cancelled keeper must not cancel the fact
            log.error("the broker node (pid %d) ended: %s; starting it again", self._node.pid, status)
            self._tell(up=False)
            self._node.kill_session()
            await asyncio.sleep(backoff.next_s())
            try:
                await self._launch(timeout_s)
            except (ServiceError, OSError) as error:
                log.error("%s", error.for_admin() if isinstance(error, ServiceError) else error)
                continue
            backoff.reset()

    async def _launch(self, timeout_s: float) -> None:
        assert self._ports is not None
        assert self._programs is not None
        if self._epmd is None or self._epmd.ended.done():
            self._epmd = self._spawn(
                [str(self._programs.epmd), "-port", str(self._ports.epmd), "-address", "127.0.0.1"]
            )
            await self._wait_for_epmd(self._epmd)
        notify = NotifySocket(self._files.base)
        try:
            environment = self._files.environment(self._ports, notify=str(notify.path))
            self._node = node = self._spawn([str(self._programs.server)], environment)
        except BaseException:
            notify.close()
            raise
        node.ended.add_done_callback(lambda _: notify.close())
        self._record()
        done, _ = await asyncio.wait(
            (notify.ready, node.ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if notify.ready in done:
            log.info("the broker node runs (pid %d, port %d)", node.pid, self._ports.amqp)
            self._tell(up=True)
            return
        what = f"ended: {node.ended.result()}" if node.ended in done else f"was not ready after {timeout_s:.0f} s"
        await node.end(signal.SIGKILL, 5.0)
        raise ServiceError(
            Code.BROKER_UNREACHABLE,
            f"The relay's RabbitMQ node {what}. Its last words, from {self._files.output}: {self._last_words()}",
        )

    def _spawn(self, command: list[str], environment: dict[str, str] | None = None) -> Child:
        output = os.open(self._files.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if os.fstat(output).st_size > 1_000_000:
            os.ftruncate(output, 0)
        try:
            # a session of its own: a ^C at the relay's terminal is the relay's to handle
            process = subprocess.Popen(  # noqa: S603 - programs found by us, no shell
                [sys.executable, "-I", "-S", _TIED, str(os.getpid()), *command],
                cwd=self._files.base,
                env=environment if environment is not None else {"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        return Child(process)

    async def _wait_for_epmd(self, epmd: Child) -> None:
        """Return when epmd listens. It has no way to say so, and is up within a few ms: a short bounded poll."""
        assert self._ports is not None
        for _ in range(500):
            if epmd.ended.done():
                break
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._ports.epmd)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return
        raise ServiceError(Code.BROKER_UNREACHABLE, f"epmd did not start: {self._last_words()}")

    def _take_lock(self) -> None:
        self._lock_fd = os.open(self._files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise HostError(
                Code.ALREADY_RUNNING,
                f"Another relay uses {self._files.base}.",
                step="Stop it, or use another --data-dir.",
            ) from None

    def _record(self) -> None:
        """Remember who the children are, for the next start after a kill that the kernel did not clean up."""
        children = [child.key for child in (self._node, self._epmd) if child is not None]
        write_private(self._files.record, json.dumps([key.as_list() for key in children]))

    async def _end_stale(self) -> None:
        """End what an earlier relay left: possible only where its parent-death signal did not work."""
        try:
            keys = [ProcessKey(*entry) for entry in json.loads(self._files.record.read_text())]
        except (OSError, ValueError, TypeError):
            return
        for key in keys:
            if key.is_alive():
                log.warning("ending the process %d that an earlier relay left", key.pid)
                await kill_session(key)
        self._files.record.unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            return self._files.output.read_text(errors="replace").strip()[-800:] or "none"
        except OSError:
            return "none"

    def _tell(self, *, up: bool) -> None:
        if self._on_state is not None:
            self._on_state(up)
