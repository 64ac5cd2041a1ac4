"""The site that the chaos hits: a relay with its own broker and a multi-user endpoint, each kept up as systemd
would, behind proxies that can be told to fail. Runs inside tools/sandbox.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chaos_client
from chaos_client import Job

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import brokernode
from support.proxy import Proxy

NAME = "chaos"
HEARTBEAT_S = 2.0
START_TIMEOUT_S = 20.0

_RESTART_S = 0.5  # the unit's RestartSec
_UP_S = 60.0

TEMPLATE = """\
engine:
  type: {{ engine }}
  max_workers: {{ workers }}
amqp_port: {{ port }}
heartbeat_period: {{ beat }}
idle_heartbeats_soft: {{ idle }}
retry_lost_tasks: {{ retry }}
"""
MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}],
    }
]


class SiteError(Exception):
    """The site cannot be brought up."""


class Service:
    """`mep ARGUMENTS`, started again whenever it ends, until told to stop."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.arguments, self.log, self._env = name, arguments, log, env
        self.process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    @property
    def pid(self) -> int:
        """The running process; 0 while there is none."""
        process = self.process
        return process.pid if process is not None and process.returncode is None else 0

    async def stop(self, within_s: float = 30.0) -> str:
        """End it with SIGTERM; return what is wrong with how it ended, or ""."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.process is None or not self.pid:
            return f"the {self.name} was not running at the end"
        self.process.terminate()
        try:
            status = await asyncio.wait_for(self.process.wait(), within_s)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return f"the {self.name} did not end within {within_s:.0f} s of SIGTERM"
        return f"the {self.name} ended with {status}" if status else ""

    async def _keep(self) -> None:
        while True:
            self.starts += 1
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "mep", *self.arguments),
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            await self.process.wait()
            await asyncio.sleep(_RESTART_S)


class Site:
    """Use as `async with Site() as site`. `broker_apart`: the broker survives the death of the relay."""

    def __init__(self, *, broker_apart: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/home"))
        self.folder.chmod(0o755)
        self.relay_dir, self.config_dir = self.folder / "relay", self.folder / "etc"
        self._broker_dir = self.folder / "broker" if broker_apart else self.relay_dir
        self._broker: asyncio.subprocess.Process | None = None
        self.amqp = Proxy("127.0.0.1", 0)  # the broker's port is known when it runs
        self.http = Proxy("127.0.0.1", 5000)
        self.relay = self._service("relay", "relay", "serve", *self._relay_options())
        self.endpoint: Service | None = None
        self.endpoint_id = ""
        self._follower: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The relay, as everybody sees it."""
        return f"http://127.0.0.1:{self.http.port}"

    @property
    def broker_port(self) -> int:
        try:
            return int(json.loads((self._broker_dir / "rabbitmq" / "ports.json").read_text())["amqp"])
        except (OSError, ValueError):
            return 0

    async def __aenter__(self) -> Site:
        try:
            await self._bring_up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _bring_up(self) -> None:
        await self.amqp.listen()
        await self.http.listen()
        if self._broker_dir != self.relay_dir:
            self.relay = self._service("relay", *self.relay.arguments, **await self._start_broker())
        self.relay.start()
        await self._until(lambda: self._healthy(), "the relay is up", self.relay)
        self.amqp.retarget("127.0.0.1", self.broker_port)
        self._follower = asyncio.create_task(self._follow_port())
        await self._start_endpoint()

    async def __aexit__(self, *_: object) -> None:
        for service in (self.endpoint, self.relay):
            if service is not None and service.pid:
                await service.stop()
        await self._stop_broker()
        if self._follower is not None:
            self._follower.cancel()
        for proxy in (self.amqp, self.http):
            await proxy.__aexit__(None, None, None)

    def logs(self) -> list[Path]:
        """Return everything that was logged: by relay, endpoint, clients and user endpoints."""
        return [*sorted(self.folder.glob("*.log")), *self.uep_logs()]

    def uep_logs(self) -> list[Path]:
        return sorted(Path("/home").glob("*/.local/state/mep/*/endpoint.log"))

    def remove(self) -> None:
        """Remove all its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def stop(self) -> list[str]:
        """Stop both as an administrator does; return what was not as it should be."""
        assert self.endpoint is not None
        wrong = [text for text in (await self.endpoint.stop(), await self.relay.stop()) if text]
        await self._stop_broker()
        return wrong

    # ---- users ----

    async def job(self, user: str, name: str, **fields: Any) -> Job:
        """Return what a client of `user` needs, with a file that the user's tasks may write."""
        ran = self.folder / f"{name}.ran"
        ran.touch()
        shutil.chown(ran, user, user)
        ran.chmod(0o600)
        token = await self.mep("relay", "token", "--data-dir", str(self.relay_dir), f"{user}@example.org")
        fields["options"] = {"port": self.amqp.port, **fields["options"]}
        return Job(
            name=name,
            relay_url=self.url,
            token=token.strip().splitlines()[-1],
            endpoint_id=self.endpoint_id,
            amqp_port=self.amqp.port,
            ran=str(ran),
            outcomes=str(self.folder / f"{name}.outcomes"),
            **fields,
        )

    async def run_client(self, job: Job) -> asyncio.subprocess.Process:
        with (self.folder / f"{job.name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                chaos_client.__file__,
                job.as_text(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    # ---- inside ----

    def _relay_options(self) -> list[str]:
        timeout = str(START_TIMEOUT_S)
        return ["--data-dir", str(self.relay_dir), "--listen", "127.0.0.1:5000", "--start-timeout", timeout]

    def _service(self, name: str, *arguments: str, **env: str) -> Service:
        return Service(name, arguments, self.folder / f"{name}.log", dict(os.environ) | env)

    async def _start_broker(self) -> dict[str, str]:
        """Start a node whose own keeper starts it again; return how the relay is told of it."""
        pipe = asyncio.subprocess.PIPE
        with (self.folder / "broker.log").open("ab") as log:
            self._broker = await asyncio.create_subprocess_exec(
                sys.executable, brokernode.__file__, str(self._broker_dir), stdin=pipe, stdout=pipe, stderr=log
            )
        assert self._broker.stdout is not None
        urls = json.loads(await self._broker.stdout.readline())
        return {"MEP_RELAY_BROKER_URL": urls["amqp"], "MEP_RELAY_BROKER_MANAGEMENT_URL": urls["management"]}

    async def _stop_broker(self) -> None:
        if self._broker is not None:
            assert self._broker.stdin is not None
            self._broker.stdin.close()
            await self._broker.wait()

    async def _start_endpoint(self) -> None:
        client = json.loads(await self.mep("relay", "client", "--data-dir", str(self.relay_dir), NAME, "--json"))
        env = {"MEP_CLIENT_ID": client["client_id"], "MEP_CLIENT_SECRET": client["client_secret"]}
        mapping = self.folder / "identity_mapping.json"
        mapping.write_text(json.dumps(MAPPING))
        self.config_dir.mkdir()
        await self.mep(*self._etc("configure", NAME, "--relay", self.url, "--id-mapping-config", str(mapping)))
        folder = self.config_dir / NAME
        (folder / "user_config_template.yaml.j2").write_text(TEMPLATE)
        (folder / "user_config_schema.json").write_text('{"type": "object"}')
        with (folder / "config.yaml").open("a") as file:
            file.write(f"\nheartbeat_period: {HEARTBEAT_S}\namqp_port: {self.amqp.port}\n")
            file.write("start_rate_per_user: null\n")
        self.endpoint = self._service("endpoint", *self._etc("start", NAME), **env)
        self.endpoint.start()
        await self._until(self._endpoint_is_up, "the endpoint is up", self.endpoint)

    def _etc(self, *arguments: str) -> list[str]:
        return ["--config-dir", str(self.config_dir), *arguments]

    async def _endpoint_is_up(self) -> bool:
        try:
            status = json.loads(await self.mep(*self._etc("status", NAME, "--json")))
        except (SiteError, ValueError):
            return False
        self.endpoint_id = str(status["endpoint_id"] or "")
        return status["state"] == "running" and (status.get("broker") or {}).get("state") == "connected"

    async def mep(self, *arguments: str) -> str:
        """Run `mep ARGUMENTS`; return what it printed."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mep", *arguments, stdout=pipe, stderr=pipe
        )
        out, err = await process.communicate()
        if process.returncode:
            raise SiteError(f"`mep {' '.join(arguments)}` ended with {process.returncode}: {err.decode()}")
        return out.decode()

    async def _healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", 5000)
        except OSError:
            return False
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
        finally:
            writer.close()

    async def _until(self, ready: Any, what: str, service: Service) -> None:
        try:
            async with asyncio.timeout(_UP_S):
                while not await ready():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise SiteError(f"not within {_UP_S:.0f} s: {what}\n{service.log.read_text()[-3000:]}") from None

    async def _follow_port(self) -> None:
        """A broker that is started again may have another port."""
        while True:
            await asyncio.sleep(0.2)
            if self.broker_port:
                self.amqp.retarget("127.0.0.1", self.broker_port)


def processes() -> dict[int, str]:
    """Return the title of every process of the sandbox."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                raw = Path(f"/proc/{name}/cmdline").read_bytes()
                if raw:
                    found[int(name)] = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process has ended by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
