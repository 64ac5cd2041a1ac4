"""The rows: each measures both sides in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bench_floor
import bench_probe
from bench_rig import Rig, Side, clear, processes

Values = dict[str, Any]
ENGINES: dict[str, dict[str, Any]] = {
    "thread": {"engine": "ThreadPoolEngine"},
    "process": {"engine": "ProcessPoolEngine", "workers": 1},
    "parsl": {"parsl": True, "workers": 1},
}
IDLE_S = 20.0
SETTLED_S = 2.0  # after which a user endpoint that has nothing to do counts as idle
THREADS_ONLY = "engine:\n  type: ThreadPoolEngine\n  max_workers: {{ workers | default(4) }}\n"


@dataclass(frozen=True)
class Repeats:
    """How often things are done."""

    first: int = 10
    first_parsl: int = 3
    sequence: int = 50
    tasks: int = 2000
    idle: int = 10
    storm: int = 20
    floor: int = 10


QUICK = Repeats(first=3, first_parsl=1, sequence=10, tasks=500, idle=3, storm=6, floor=5)


@dataclass(frozen=True)
class Row:
    """A measurement. `goal`: (which value of ours, the most it may be; negative = the least), or None."""

    name: str
    what: str
    measure: Callable[[Rig, Repeats], dict[str, Values]]
    headline: str
    unit: str
    goal: float | None = None


def first_result(engine: str) -> Callable[[Rig, Repeats], dict[str, Values]]:
    """Return the measurement for `engine`: a user with nothing running, seen for the first time and again."""

    def measure(rig: Rig, repeats: Repeats) -> dict[str, Values]:
        options = ENGINES[engine]
        samples: dict[str, list[Values]] = {side.name: [] for side in rig.sides}
        for _ in range(repeats.first_parsl if engine == "parsl" else repeats.first):
            for side in rig.sides:
                user = rig.fresh_users(1)[0]
                samples[side.name].append(side.ask("first", user, options=options))
                clear([user])
        return {side: _first_values(taken) for side, taken in samples.items()}

    return measure


def _first_values(taken: list[Values]) -> Values:
    """`median_s`: SDK at work, user endpoint not; `contact_s`: also a new client, function and home."""
    starts, contacts = [t["start_s"] for t in taken], [t["contact_s"] for t in taken]
    return {
        "median_s": statistics.median(starts),
        "max_s": max(starts),
        "contact_s": statistics.median(contacts),
        "next_s": statistics.median(t["next_s"] for t in taken),
        "samples": [round(s, 4) for s in starts],
    }


def sequential(rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """One submit after the other's result, on a user endpoint that runs; both sides by turns."""
    user, seconds = rig.fresh_users(1)[0], {side.name: list[float]() for side in rig.sides}
    for side in rig.sides:
        side.ask("sequence", user, count=3)
    rounds = 5
    for _ in range(rounds):
        for side in rig.sides:
            count = max(1, repeats.sequence // rounds)
            seconds[side.name] += side.ask("sequence", user, count=count, within_s=300)["seconds"]
    clear([user])
    return {
        name: {"median_s": statistics.median(s), "p95_s": _p95(s), "min_s": min(s), "count": len(s)}
        for name, s in seconds.items()
    }


def throughput(rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """Many small tasks at once, thread engine with 4 workers. `monitor_share`: of one core, for the audit log."""
    user, values = rig.fresh_users(1)[0], {}
    for side in rig.sides:
        side.ask("many", user, count=10)
        monitor = min(side.daemon())
        before = bench_probe.processor_s(monitor)
        answer = side.ask("many", user, count=repeats.tasks, within_s=300)
        assert answer["right"] == repeats.tasks, f"{side.name}: {answer}"
        rate = repeats.tasks / answer["seconds"]
        time.sleep(0.5)  # the last lines are on their way
        share = (bench_probe.processor_s(monitor) - before) / answer["seconds"]
        values[side.name] = {
            "tasks_per_s": rate,
            "seconds": answer["seconds"],
            "submit_s": answer["submitted_s"],
            "monitor_share": share,
        }
    clear([user])
    return values


def idle_memory(rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """PSS per idle user endpoint with threads, all processes of its user together: of an endpoint that offers
    threads only, alone and among others; and of one that offers Parsl too, whose libraries all of them share."""
    values = {}
    for side in rig.sides:
        everything = _pss_of(side, repeats.idle)
        template = side.endpoint.directory.template
        text = template.read_text()
        template.write_text(THREADS_ONLY)
        side.endpoint.restart()
        threads = _pss_of(side, repeats.idle)
        template.write_text(text)
        side.endpoint.restart()
        values[side.name] = {**threads, "pss_all_engines_mib": everything["pss_mib"]}
    return values


def _pss_of(side: Side, count: int) -> Values:
    users = side.rig.fresh_users(count)
    side.ask("call", users[0], function="add", arguments=[1, 1])
    time.sleep(SETTLED_S)
    alone = bench_probe.memory_mib(processes(users[0]))
    for user in users[1:]:
        side.ask("call", user, function="add", arguments=[1, 1])
    time.sleep(SETTLED_S)
    many = [bench_probe.memory_mib(processes(user)) for user in users]
    daemon = bench_probe.memory_mib(side.daemon())
    clear(users)
    return {
        "pss_mib": statistics.mean(pss for pss, _ in many),
        "private_mib": statistics.mean(private for _, private in many),
        "pss_alone_mib": alone[0],
        "daemon_pss_mib": daemon[0],
        "user_endpoints": count,
    }


def storm(rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """Many users' first submits at one moment; until the last result is there."""
    values = {}
    for side in rig.sides:
        users = rig.fresh_users(repeats.storm)
        identities = [rig.identity(user) for user in users]
        tokens = {identity: rig.tokens[identity] for identity in identities}
        seconds = side.sdk.ask("storm", endpoint=side.endpoint.id, tokens=tokens, options=ENGINES["thread"])[
            "seconds"
        ]
        values[side.name] = {"last_s": max(seconds), "median_s": statistics.median(seconds), "users": len(users)}
        clear(users)
    return values


def idle_wakeups(rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """System calls of an idle daemon in 20 s, one user endpoint running; by process."""
    values, user = {}, rig.fresh_users(1)[0]
    for side in rig.sides:
        side.ask("call", user, function="add", arguments=[1, 1], options=ENGINES["thread"])
        time.sleep(3)
        daemon = side.daemon()
        user_processes = {pid: bench_probe.title_of(pid) for pid in processes(user)}
        counts = bench_probe.system_calls([*daemon, *user_processes], IDLE_S)
        values[side.name] = {
            "calls": sum(counts[pid] for pid in daemon),
            "user_endpoint_calls": sum(counts[pid] for pid in user_processes),
            "seconds": IDLE_S,
            "by_process": {f"{title[:60]}": counts[pid] for pid, title in {**daemon, **user_processes}.items()},
        }
        clear([user])
    return values


def broker_floor(_rig: Rig, repeats: Repeats) -> dict[str, Values]:
    """What the broker alone gives: publish and consume rates, and a fork that does one task with nothing else."""
    return {"floor": bench_floor.measure(repeats.floor)}


def _p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]


ROWS = [
    Row(
        "first_result_thread",
        "first result, no user endpoint, threads",
        first_result("thread"),
        "median_s",
        "s",
        0.15,
    ),
    Row(
        "first_result_process",
        "first result, no user endpoint, processes",
        first_result("process"),
        "median_s",
        "s",
        0.15,
    ),
    Row(
        "first_result_parsl",
        "first result, no user endpoint, Parsl local",
        first_result("parsl"),
        "median_s",
        "s",
        2.0,
    ),
    Row("sequential", "next result, one after the other", sequential, "median_s", "s", 0.010),
    Row("throughput", "small tasks at once", throughput, "tasks_per_s", "/s", -1000),
    Row("idle_memory", "memory per idle user endpoint (PSS)", idle_memory, "pss_mib", "MiB", 15),
    Row("storm", "first results of many users at once, the last", storm, "last_s", "s"),
    Row("idle_wakeups", "system calls of an idle daemon in 20 s", idle_wakeups, "calls", ""),
    Row("floor", "broker and fork alone", broker_floor, "task_s", "s"),
]
