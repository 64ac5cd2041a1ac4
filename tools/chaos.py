"""`sudo ./dev chaos`: everything is killed at random under load, and every task is accounted for at the end.

Runs inside tools/sandbox.py: a relay with its broker, a multi-user endpoint, six users' programs; kill -9 of
relay, broker, gate, monitor, user endpoints and workers; processes that stand still; a network that is cut,
swallowed, refused and slow. The seed fixes the schedule and the tasks, not how the machine interleaves them. Any
violation: exit status 1, its tasks with their last known state, and the logs are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chaos_account
from chaos_account import Account
from chaos_client import Job
from chaos_faults import KILLS, Chaos, Fault, schedule
from chaos_site import Site, processes

Say = Callable[[str], None]

_SECONDS_PER_KILL = 4.5
_SETTLE_S = 120.0  # what is not done so long after the last fault hangs

#: user, engine, seconds between heartbeats, idle heartbeats until it leaves (0: never), retry_lost_tasks
_USERS = (
    ("alice", "ThreadPoolEngine", 2, 0, False),
    ("alice", "ProcessPoolEngine", 2, 0, False),
    ("bob", "ThreadPoolEngine", 2, 0, True),
    ("bob", "ProcessPoolEngine", 2, 0, True),
    ("carol", "ThreadPoolEngine", 1, 1, False),  # leaves whenever there is a pause
    ("carol", "ProcessPoolEngine", 2, 1, False),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=45)
    parser.add_argument("--minutes", type=float, help=f"of faults [{_SECONDS_PER_KILL} s for each kill]")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--broker-apart", action="store_true", help="a broker that survives the relay's death")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON line, the story on stderr")
    parser.add_argument("--keep", metavar="DIR", help="copy all logs there, whatever happens")
    arguments = parser.parse_args()
    return asyncio.run(play(arguments))


async def play(arguments: argparse.Namespace) -> int:
    story = sys.stderr if arguments.json else sys.stdout
    began = time.monotonic()

    def say(text: str) -> None:
        print(text, file=story, flush=True)

    span_s = arguments.minutes * 60 if arguments.minutes else arguments.kills * _SECONDS_PER_KILL
    say(f"seed {arguments.seed}: {arguments.tasks} tasks, {arguments.kills} kills in {span_s:.0f} s")
    site = Site(broker_apart=arguments.broker_apart)
    try:
        async with site:
            say(f"{time.monotonic() - began:6.1f} s to bring everything up")
            chaos = Chaos(site, say)
            jobs = await _jobs(site, arguments.tasks, arguments.seed, span_s)
            await _storm(site, chaos, jobs, schedule(arguments.seed, kills=arguments.kills, span_s=span_s), say)
            wrong_ends = await site.stop()
        account = chaos_account.settle(jobs, site.relay_dir)
        account.offences += wrong_ends + await _left_behind() + chaos_account.tracebacks(site.logs())
        kills = sum(count for what, count in chaos.done.items() if what in KILLS)
        if kills < 0.9 * arguments.kills:  # now and then nobody of that kind is there for a whole minute
            account.offences.append(f"only {kills} of {arguments.kills} kills hit something")
        _report(account, chaos, arguments, time.monotonic() - began, say)
        if arguments.keep or account.offences:
            say(f"logs: {_keep(site, arguments.keep, arguments.seed)}")
        return 1 if account.offences else 0
    finally:
        site.remove()


async def _jobs(site: Site, tasks: int, seed: int, span_s: float) -> list[Job]:
    jobs = []
    for number, (user, engine, beat, idle, retry) in enumerate(_USERS):
        share = tasks // len(_USERS) + (number < tasks % len(_USERS))
        workers = 1 if engine == "ThreadPoolEngine" else 2
        options = {"engine": engine, "workers": workers, "beat": beat, "idle": idle, "retry": retry}
        # the one that leaves when idle gets its tasks in few large bursts
        pause_s = 5.0 if idle else 1.0
        jobs.append(
            await site.job(
                user,
                f"{user}-{engine[:3].lower()}",
                options=options,
                tasks=share,
                span_s=span_s * 0.97,
                burst=max(1, round(share * pause_s / span_s)),
                seed=f"{seed}/{number}",
            )
        )
    return jobs


async def _storm(site: Site, chaos: Chaos, jobs: list[Job], faults: list[Fault], say: Say) -> None:
    clients = [await site.run_client(job) for job in jobs]
    await chaos.run(faults)
    say("the last fault is done; waiting for the rest")
    calm = time.monotonic()
    done, late = await asyncio.wait([asyncio.ensure_future(c.wait()) for c in clients], timeout=_SETTLE_S)
    say(f"{time.monotonic() - calm:6.1f} s later {len(done)} of {len(clients)} clients are done")
    for client in clients:
        if client.returncode is None:
            client.terminate()
    if late:
        await asyncio.wait(late, timeout=10.0)


async def _left_behind() -> list[str]:
    """Name the processes that are there after everything was stopped."""
    for _ in range(100):
        left = {pid: title for pid, title in processes().items() if pid not in (1, os.getpid())}
        if not left:
            return []
        await asyncio.sleep(0.05)
    return [f"left behind: process {pid} {title[:120]}" for pid, title in left.items()]


def _report(account: Account, chaos: Chaos, arguments: argparse.Namespace, seconds: float, say: Say) -> None:
    for offence in account.offences[:200]:
        say(f"OFFENCE  {offence}")
    if len(account.offences) > 200:
        say(f"... and {len(account.offences) - 200} more")
    summary: dict[str, Any] = {
        "ok": not account.offences,
        "seed": arguments.seed,
        "tasks": account.tasks,
        "outcomes": dict(account.outcomes.most_common()),
        "faults": dict(sorted(chaos.done.items())),
        "offences": len(account.offences),
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(summary), flush=True)
        return
    for name in ("outcomes", "faults"):
        say(f"{name}: " + ", ".join(f"{key} {count}" for key, count in summary[name].items()))
    verdict = "every task accounted for" if not account.offences else f"{len(account.offences)} OFFENCES"
    say(f"{verdict}, {seconds:.0f} s, seed {arguments.seed}")


def _keep(site: Site, wanted: str | None, seed: int) -> Path:
    """Copy the logs out of the sandbox, where nothing stays."""
    place = Path(wanted or Path(os.environ.get("MEP_DEV_DIR", "/var/cache/mep-dev")) / f"chaos-{seed}")
    shutil.copytree(site.folder, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("rabbitmq"))
    for log in site.uep_logs():
        shutil.copy(log, place / f"uep-{log.parent.name}.log")
    return place


if __name__ == "__main__":
    if os.environ.get("MEP_SANDBOX") != "1":
        sys.exit("chaos: run it as: sudo ./dev chaos")
    sys.exit(main())
