"""What goes wrong in the chaos, and when: a schedule drawn from a seed, and the hands that carry it out.

Everybody speaks through proxies that cut, swallow, refuse and delay, but for the relay with its broker: there the
kernel drops the packets (nftables, in the sandbox's own network), so that nothing but time is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from chaos_site import NAME, Site, processes, send
from support.proxy import Proxy

#: kill -9 of whom, and in which share.
KILLS = {"uep": 5, "worker": 5, "gate": 3, "monitor": 3, "gate+monitor": 1, "relay": 2, "broker": 2}
#: Faults of the network, and processes that stand still for a while; about one for every two kills.
CUTS = (
    "reset",
    "swallow",
    "refuse",
    "delay",
    "http-reset",
    "http-refuse",
    "broker-reset",
    "broker-drop",
    "broker-loss",
)
STILL = ("uep", "worker", "gate", "monitor", "relay", "broker")

_TITLES = {
    "uep": f"mep user-endpoint {NAME} ",
    "worker": f"mep worker {NAME} ",
    "gate": f"mep gate: {NAME}",
    "monitor": f"mep monitor: {NAME}",
}
_TARGET_WITHIN_S = 60.0
_LOSS = "numgen random mod 10 < 3"  # 30 % of the packets: TCP sends them again, 0.2 s and more later
_TABLES = itertools.count()


@dataclass(frozen=True)
class Fault:
    """`pick` (0..1) chooses among several targets, or how long a cut lasts."""

    at_s: float
    what: str
    pick: float

    @property
    def is_kill(self) -> bool:
        return self.what in KILLS


def schedule(seed: int, *, kills: int, span_s: float) -> list[Fault]:
    """Return the faults in order: every kind of kill in its share, at moments drawn evenly from the span."""
    chance = random.Random(seed)
    total = sum(KILLS.values())
    kinds = list(KILLS) if kills >= len(KILLS) else []
    for kind, share in KILLS.items():
        kinds += [kind] * max(0, round(kills * share / total) - 1)
    while len(kinds) < kills:
        kinds.append(chance.choices(list(KILLS), list(KILLS.values()))[0])
    others = [f"network {name}" for name in CUTS] + [f"frozen {name}" for name in STILL]
    chance.shuffle(others)
    kinds = kinds[:kills] + [others[n % len(others)] for n in range(kills // 2)]
    return sorted(
        (Fault(round(chance.uniform(0.0, span_s), 2), kind, chance.random()) for kind in kinds),
        key=lambda fault: fault.at_s,
    )


class Chaos:
    """Carries out a schedule. `done` counts what was really hit."""

    def __init__(self, site: Site, say: Callable[[str], None]) -> None:
        self._site, self._say = site, say
        self.done: Counter[str] = Counter()
        self._healing: set[asyncio.Task[None]] = set()

    async def run(self, faults: list[Fault]) -> None:
        """Return when the last fault is done and the network is whole again."""
        began = time.monotonic()
        under_way = []
        for fault in faults:
            await asyncio.sleep(max(began + fault.at_s - time.monotonic(), 0.0))
            under_way.append(asyncio.create_task(self._do(fault)))
        await asyncio.gather(*under_way)

    async def _do(self, fault: Fault) -> None:
        if fault.is_kill:
            await self._kill(fault)
        elif fault.what.startswith("frozen"):
            await self._freeze(fault)
        else:
            await self._cut(fault)

    async def _kill(self, fault: Fault) -> None:
        pids = []
        for kind in fault.what.split("+"):
            pids += await self._hit(kind, fault.pick, signal.SIGKILL)
        if pids:
            self._tell(fault, f"kill -9 {fault.what} {pids}")

    async def _freeze(self, fault: Fault) -> None:
        """Long enough, now and then, for others to believe that it is gone."""
        seconds = 0.5 + 12.0 * fault.pick
        for pid in await self._hit(fault.what.split()[1], fault.pick, signal.SIGSTOP):
            self._tell(fault, f"{fault.what} ({pid}) for {seconds:.1f} s")
            await asyncio.sleep(seconds)
            send(pid, signal.SIGCONT)

    async def _hit(self, kind: str, pick: float, number: signal.Signals) -> list[int]:
        """Send the signal to one of that kind; if there is none just now, to the next one that comes."""
        end = time.monotonic() + _TARGET_WITHIN_S
        while time.monotonic() < end:
            targets = self._targets(kind)
            if targets and send(pid := targets[int(pick * len(targets))], number):
                return [pid]
            await asyncio.sleep(0.02)
        self._say(f"there is no {kind} for {number.name}")
        return []

    def _tell(self, fault: Fault, text: str) -> None:
        self._say(f"{fault.at_s:6.1f} s  {text}")
        self.done[fault.what] += 1

    def _targets(self, kind: str) -> list[int]:
        if kind == "relay":
            return [self._site.relay.pid] if self._site.relay.pid else []
        found = processes()
        if kind == "broker":
            return sorted(pid for pid, title in found.items() if "beam.smp" in title.split(" ", 1)[0])
        return sorted(pid for pid, title in found.items() if title.startswith(_TITLES[kind]))

    async def _cut(self, fault: Fault) -> None:
        seconds = 1.0 + 5.0 * fault.pick
        if fault.what in ("network broker-drop", "network broker-loss"):
            await self._drop(fault, seconds)
            return
        self._tell(fault, f"{fault.what} ({seconds:.1f} s)")
        site, what = self._site, fault.what.split()[1]
        if what == "broker-reset":  # between relay and broker: no proxy there
            await _run("ss", "-K", "dst", "127.0.0.1", "dport", "=", f":{site.broker_port}")
        elif what == "reset":
            site.amqp.cut()
        elif what == "http-reset":
            site.http.cut()
        elif what == "delay":
            site.amqp.delay_s = site.http.delay_s = 0.02 + 0.1 * fault.pick
            await asyncio.sleep(seconds)
            site.amqp.delay_s = site.http.delay_s = 0.0
        elif what == "swallow":
            site.amqp.swallow()
            await asyncio.sleep(seconds)
            site.amqp.heal()
            site.amqp.cut()  # bytes are missing: such a stream is broken for good
        else:
            await _refuse(site.http if what == "http-refuse" else site.amqp, seconds)

    async def _drop(self, fault: Fault, seconds: float) -> None:
        """Let the kernel drop packets between relay and broker: all of the present connections, or some of any."""
        broker = self._site.broker_port
        if fault.what == "network broker-drop":
            ports, which = await self._relays_ports(), ""
        else:
            ports, which = [str(broker)], _LOSS
        if not ports:
            self._say(f"there is no connection for {fault.what}")
            return
        table, those = f"chaos{next(_TABLES)}", ", ".join(ports)
        rules = "\n".join(f"tcp {end} {{ {those} }} {which} drop" for end in ("sport", "dport"))
        hook = "type filter hook input priority 0;"
        error = await _run("nft", f"table inet {table} {{\nchain drops {{\n{hook}\n{rules}\n}}\n}}")
        if error:
            self._say(f"no {fault.what} here: {error}")
            return
        self._tell(fault, f"{fault.what} of port {those} ({seconds:.1f} s)")
        await asyncio.sleep(seconds)
        await _run("nft", f"delete table inet {table}")

    async def _relays_ports(self) -> list[str]:
        """Return the relay's ends of its connections to the broker; wait for one, as both may just be away."""
        end = time.monotonic() + _TARGET_WITHIN_S
        while time.monotonic() < end:
            if ports := await _ports_of(self._site.relay.pid, self._site.broker_port):
                return ports
            await asyncio.sleep(0.1)
        return []


async def _ports_of(pid: int, port: int) -> list[str]:
    """Return this process's ends of its connections to `port`."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("ss", "-tnHp", "dport", "=", f":{port}", stdout=pipe)
    lines = (await process.communicate())[0].decode().splitlines()
    found = (re.search(r":(\d+)\s+\S+\s+users:.*\bpid=(\d+),", line) for line in lines)
    return [match[1] for match in found if match is not None and int(match[2]) == pid]


async def _refuse(proxy: Proxy, seconds: float) -> None:
    await proxy.refuse()
    proxy.cut()
    await asyncio.sleep(seconds)
    await proxy.listen()


async def _run(*argv: str) -> str:
    """Run a program; return what it complained of, or ""."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=null, stderr=pipe)
    except OSError as error:
        return str(error)
    complaint = (await process.communicate())[1].decode()
    return (complaint or f"status {process.returncode}") if process.returncode else ""
