"""What goes wrong in the chaos, and when: a schedule drawn from a seed, and the hands that carry it out."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from chaos_site import NAME, Site, kill_9, processes
from support.proxy import Proxy

#: kill -9 of whom, and in which share.
KILLS = {"uep": 5, "worker": 5, "gate": 3, "monitor": 3, "relay": 2, "broker": 2}
#: Faults of the network; about one for every two kills.
CUTS = ("reset", "swallow", "refuse", "delay", "http-reset", "http-refuse", "broker-reset")

_TITLES = {
    "uep": f"mep user-endpoint {NAME} ",
    "worker": f"mep worker {NAME} ",
    "gate": f"mep gate: {NAME}",
    "monitor": f"mep monitor: {NAME}",
}
_TARGET_WITHIN_S = 15.0


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
    kinds = kinds[:kills] + [CUTS[n % len(CUTS)] for n in range(kills // 2)]
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
        else:
            await self._cut(fault)

    async def _kill(self, fault: Fault) -> None:
        """Kill one of that kind; if there is none just now, the next one that comes."""
        end = time.monotonic() + _TARGET_WITHIN_S
        while time.monotonic() < end:
            targets = self._targets(fault.what)
            if targets and kill_9(pid := targets[int(fault.pick * len(targets))]):
                self._say(f"{fault.at_s:6.1f} s  kill -9 {fault.what} ({pid})")
                self.done[fault.what] += 1
                return
            await asyncio.sleep(0.02)
        self._say(f"{fault.at_s:6.1f} s  no {fault.what} to kill")

    def _targets(self, kind: str) -> list[int]:
        if kind == "relay":
            return [self._site.relay.pid] if self._site.relay.pid else []
        found = processes()
        if kind == "broker":
            return sorted(pid for pid, title in found.items() if "beam.smp" in title.split(" ", 1)[0])
        return sorted(pid for pid, title in found.items() if title.startswith(_TITLES[kind]))

    async def _cut(self, fault: Fault) -> None:
        seconds = 1.0 + 5.0 * fault.pick
        self._say(f"{fault.at_s:6.1f} s  network: {fault.what} ({seconds:.1f} s)")
        self.done[f"network {fault.what}"] += 1
        site = self._site
        if fault.what == "broker-reset":  # between relay and broker: no proxy there
            await _run("ss", "-K", "dst", "127.0.0.1", "dport", "=", f":{site.broker_port}")
        elif fault.what == "reset":
            site.amqp.cut()
        elif fault.what == "http-reset":
            site.http.cut()
        elif fault.what == "delay":
            site.amqp.delay_s = site.http.delay_s = 0.02 + 0.1 * fault.pick
            await asyncio.sleep(seconds)
            site.amqp.delay_s = site.http.delay_s = 0.0
        elif fault.what == "swallow":
            site.amqp.swallow()
            await asyncio.sleep(seconds)
            site.amqp.heal()
            site.amqp.cut()  # bytes are missing: such a stream is broken for good
        else:
            await _refuse(site.http if fault.what == "http-refuse" else site.amqp, seconds)


async def _refuse(proxy: Proxy, seconds: float) -> None:
    await proxy.refuse()
    proxy.cut()
    await asyncio.sleep(seconds)
    await proxy.listen()


async def _run(*argv: str) -> None:
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdout=null, stderr=null)
    await process.wait()
