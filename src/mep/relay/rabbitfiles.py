"""What a private RabbitMQ node finds on disk: its programs, ports, secrets, configuration and environment."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from mep.base.codes import Code
from mep.base.errors import HostError, ServiceError

ADMIN_USER = "mep"
NODE_NAME = "mep@localhost"  # names the database directory: must not depend on a port that may change

# Below the usual ephemeral range, so that no outgoing connection of this host sits on them by chance.
_PORT_RANGE = range(20_000, 32_000)

_MISSING = (
    "RabbitMQ is not installed: the relay found no {what}. Install it"
    " (Debian, Ubuntu: `apt install rabbitmq-server`; Fedora: `dnf install rabbitmq-server`;"
    " other Enterprise Linux: packages `erlang` and `rabbitmq-server` from RabbitMQ's own repository),"
    " or use a broker you have with --broker-url."
)


@dataclass(frozen=True)
class Programs:
    """Where the two programs are."""

    server: Path
    epmd: Path


@dataclass(frozen=True)
class Ports:
    """Four loopback ports, kept over restarts so that the URLs that clients hold stay true."""

    amqp: int
    management: int
    distribution: int
    epmd: int


def find_programs() -> Programs:
    """Return where RabbitMQ is installed; ServiceError(BROKER_UNREACHABLE) says which package to install."""
    epmd = shutil.which("epmd") or next(
        (str(p) for p in map(Path, ("/usr/lib64/erlang/bin/epmd", "/usr/lib/erlang/bin/epmd")) if p.exists()), None
    )
    server = next((path for path in _server_candidates() if (path.parent / "rabbitmq-env").exists()), None)
    if server is None or epmd is None:
        what = "rabbitmq-server" if server is None else "epmd (part of Erlang)"
        raise ServiceError(Code.BROKER_UNREACHABLE, _MISSING.format(what=what))
    return Programs(server, Path(epmd))


def _server_candidates() -> list[Path]:
    """The real script has `rabbitmq-env` beside it. Debian's /usr/sbin/rabbitmq-server does not: that one insists
    on the system's user and directories."""
    found = [Path("/usr/lib/rabbitmq/bin/rabbitmq-server")]
    for pattern in ("usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server", "opt/rabbitmq*/sbin/rabbitmq-server"):
        found += sorted(Path("/").glob(pattern), reverse=True)
    on_path = shutil.which("rabbitmq-server")
    return [path for path in (*found, *([Path(on_path).resolve()] if on_path else [])) if path.exists()]


class NodeFiles:
    """The directory of one node: made 0700, so that nothing in it needs protection of its own."""

    def __init__(self, base: Path) -> None:
        self.base = base.absolute()
        self.lock = self.base / "lock"
        self.record = self.base / "processes.json"
        self.output = self.base / "output.log"

    def make(self) -> None:
        """Create the directories; HostError(CONFIG_UNREADABLE) if they cannot be."""
        try:
            for path in (self.base, *(self.base / name for name in ("home", "mnesia", "log", "gen"))):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
        except OSError as error:
            raise HostError(
                Code.CONFIG_UNREADABLE, f"Cannot use {self.base} for the broker: {error.strerror}."
            ) from None

    def password(self) -> str:
        """Return the administrator's password, made at the first call."""
        return self._kept("password", lambda: secrets.token_hex(24))

    def ports(self) -> Ports:
        """Return four free loopback ports: those of last time where they are still free."""
        path = self.base / "ports.json"
        try:
            old = Ports(**json.loads(path.read_text()))
            wanted = [old.amqp, old.management, old.distribution, old.epmd]
        except (OSError, ValueError, TypeError):
            wanted = [0, 0, 0, 0]
        chosen: list[int] = []
        for port in wanted:
            chosen.append(port if port and port not in chosen and _is_free(port) else _free_port(chosen))
        ports = Ports(*chosen)
        if chosen != wanted:
            write_private(path, json.dumps(asdict(ports)))
        return ports

    def write(self, ports: Ports) -> None:
        """Write the node's configuration."""
        write_private(self.base / "rabbitmq.conf", _configuration(ports, self.password(), self.base))
        write_private(self.base / "enabled_plugins", "[rabbitmq_management].\n")
        write_private(self.base / "env.conf", "")  # else the system's /etc/rabbitmq/rabbitmq-env.conf is read
        cookie = self.base / "home" / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, secrets.token_hex(24), mode=0o400)

    def environment(self, ports: Ports, *, notify: str) -> dict[str, str]:
        """Return the node's whole environment: nothing of ours, nothing of the system's RabbitMQ.

        NOTIFY_SOCKET gives us the node's READY=1 (and makes the start script exec, so that the child is the node).
        """
        base = str(self.base)
        schedulers = min(os.cpu_count() or 1, 4)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "HOME": f"{base}/home",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": notify,
            "RABBITMQ_CONF_ENV_FILE": f"{base}/env.conf",
            "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{base}/advanced",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
            "RABBITMQ_LOG_BASE": f"{base}/log",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{base}/gen",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{base}/pid",
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"+S {schedulers}:{schedulers} +sbwt none +sbwtdcpu none +sbwtdio none"
                " -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _kept(self, name: str, make: object) -> str:
        path = self.base / name
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            text = str(make()) if callable(make) else str(make)
            write_private(path, text)
            return text


def _configuration(ports: Ports, password: str, base: Path) -> str:
    lines = {
        "listeners.tcp.1": f"127.0.0.1:{ports.amqp}",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": ports.management,
        "default_user": ADMIN_USER,  # made at the first start only, when the database is empty
        "default_pass": password,
        "default_user_tags.administrator": "true",
        "log.console": "false",
        "log.dir": base / "log",
        "log.file": "rabbit.log",
        "log.file.level": "info",
        "log.connection.level": "warning",  # else two lines for each connection of each user endpoint
        "log.file.rotation.size": 10_000_000,
        "log.file.rotation.count": 3,
        "heartbeat": 30,  # what peers use that do not say: a dead one is seen after a minute
        "disk_free_limit.absolute": "50MB",
        "max_message_size": 134_217_728,
        # A stock endpoint never acknowledges a task that it rejects; the default of 30 minutes would close its
        # channel for that.
        "consumer_timeout": 7 * 86_400_000,
        "collect_statistics_interval": 30_000,  # nobody looks at rates here
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: list[int]) -> int:
    for _ in range(1000):
        port = random.choice(_PORT_RANGE)  # noqa: S311 - no secret
        if port not in taken and _is_free(port):
            return port
    raise HostError(Code.BROKER_UNREACHABLE, "No free loopback port for the broker between 20000 and 32000.")
