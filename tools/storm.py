"""`sudo ./dev trials --storm`: 200 users' endpoints at once: how soon up, how heavy, how soon gone.

Each user submits one task. The clock runs from the first submit until all user endpoints run, and from `mep stop`
until nobody is left.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bench_probe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from mep import Client
from mep.daemon.controlclient import ask
from mep.relay.auth.local import make_token
from mep.relay.store.engine import default_url
from mep.serialize import PureSourceTextInspect, Serializer
from mep.wire.control import Request
from support.endpoint import Endpoint
from support.relay import Relay
from support.remote import titled
from support.rigs import make_open_dir
from trials import processes_of

NAME = "storm"
USERS = [f"u{number:03}" for number in range(1, 201)]  # the sandbox's crowd
GOALS = {"started_s": 10.0, "pss_mib": 2560.0, "stopped_s": 5.0}
_FIRST_UID = 21001
_PARTS = {"monitor": "mep monitor", "gate": "mep gate", "relay": "relay serve", "broker": "beam.smp"}


def whoami() -> int:
    """Runs in each user endpoint."""
    import os

    return os.getuid()


class Storm:
    """A relay, one endpoint, and a client of each user that has registered its function."""

    def __init__(self) -> None:
        self.folder = make_open_dir()
        self.relay = Relay(self.folder / "relay", options=["--rate-limit", "0"]).start()
        etc = self.folder / "etc"
        etc.mkdir()
        self.site = Endpoint(NAME, etc, self.relay)
        client = self.relay.client(NAME)
        self.site.extra_env |= {"MEP_CLIENT_ID": client.client_id, "MEP_CLIENT_SECRET": client.client_secret}
        self.site.configure().start()
        self.id = self.site.id
        self.clients = [self._client(user) for user in USERS]
        with ThreadPoolExecutor(8) as pool:
            self.functions = list(pool.map(lambda one: one.register_function(whoami), self.clients))

    def _client(self, user: str) -> Client:
        token = make_token(default_url(self.relay.data_dir), f"{user}@example.org", lifetime_s=3600)
        return Client(
            relay_url=self.relay.url,
            token=token.reveal(),
            do_version_check=False,
            serializer=Serializer(PureSourceTextInspect),
        )

    def close(self) -> None:
        self.site.stop()
        self.relay.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what is measured ----

    def start_all(self) -> tuple[float, list[str]]:
        """Submit one task of each user; return the seconds until all endpoints run, and the tasks."""
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            pairs = zip(self.clients, self.functions, strict=True)
            tasks = list(pool.map(lambda p: p[0].run(endpoint_id=self.id, function_id=p[1]), pairs))
        while len(up := self._running()) < len(USERS):
            if time.monotonic() > began + 120:
                raise AssertionError(f"only {len(up)} user endpoints run after 120 s:\n{self.site.tail()}")
            time.sleep(0.05)
        return time.monotonic() - began, tasks

    def wrong_results(self, tasks: list[str]) -> int:
        """Return how many users did not get their own uid."""
        end, wrong = time.monotonic() + 60, 0
        for number, (client, task) in enumerate(zip(self.clients, tasks, strict=True)):
            while (found := client.get_task(task))["pending"] and time.monotonic() < end:
                time.sleep(0.05)
            wrong += found.get("result") != _FIRST_UID + number
        return wrong

    def weigh(self) -> dict[str, float]:
        """Return PSS in MiB: of all user endpoints, and of the daemon's own processes."""
        uids = range(_FIRST_UID, _FIRST_UID + len(USERS))
        ueps = [pid for uid in uids for pid in processes_of(uid)]
        assert self.site.program is not None
        daemon = [self.site.program.pid, *titled(f": {NAME}")]
        pss, private = bench_probe.memory_mib(ueps)
        return {"ueps_pss": pss, "ueps_private": private, "daemon_pss": bench_probe.memory_mib(set(daemon))[0]}

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that each part has used so far."""
        parts: dict[str, float] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                title, uid = bench_probe.title_of(int(name)), os.stat(f"/proc/{name}").st_uid
            except OSError:
                continue
            part = "user endpoints" if uid >= _FIRST_UID else next((p for p in _PARTS if _PARTS[p] in title), "")
            if part:
                used = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
                parts[part] = parts.get(part, 0.0) + used
        return parts | {"clients": sum(os.times()[:2])}

    def stop_all(self) -> float:
        """Stop the endpoint as an administrator does; return the seconds until nobody is left."""
        began = time.monotonic()
        self.site.mep("stop", NAME)
        took = time.monotonic() - began
        uids = range(_FIRST_UID, _FIRST_UID + len(USERS))
        assert not [pid for uid in uids for pid in processes_of(uid)], "somebody is left"
        return took

    def _running(self) -> list[Any]:
        reply = ask(self.site.state_dir / "control.sock", Request(verb="status"))
        assert reply is not None
        assert reply.status is not None
        return [uep for uep in reply.status.user_endpoints if uep.state == "running"]


def main(*, as_json: bool) -> int:
    """Measure, print, and return 1 if a goal was missed."""
    storm = Storm()
    try:
        before = storm.cpu()
        started_s, tasks = storm.start_all()
        cpu = {part: round(used - before.get(part, 0.0), 1) for part, used in storm.cpu().items()}
        wrong = storm.wrong_results(tasks)
        weight = storm.weigh()
        stopped_s = storm.stop_all()
    finally:
        storm.close()
    figures: dict[str, Any] = {
        "user_endpoints": len(USERS),
        "wrong_results": wrong,
        "started_s": round(started_s, 2),
        "pss_mib": round(weight["ueps_pss"] + weight["daemon_pss"], 1),
        "ueps_private_mib": round(weight["ueps_private"], 1),
        "stopped_s": round(stopped_s, 2),
        "cpu_s": cpu,
        "load": round(os.getloadavg()[0], 1),
    }
    missed = [name for name, goal in GOALS.items() if figures[name] > goal]
    if as_json:
        print(json.dumps({**figures, "missed": missed}))
    else:
        for name, value in figures.items():
            goal = f"  (goal: at most {GOALS[name]:g})" if name in GOALS else ""
            print(f"{name:18} {value!s:>8}{goal}{'  MISSED' if name in missed else ''}")
    return 1 if missed or wrong else 0
